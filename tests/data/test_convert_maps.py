"""CamVid and Cityscapes converted from small copies of their forms, and read back."""

import io
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from eenet_jax.data import convert_maps, prepare, sources
from eenet_jax.data.map_records import VOID
from eenet_jax.errors import UserError


def _png(size: tuple[int, int], mode: str, seed: int) -> bytes:
    rng, coarse = np.random.default_rng(seed), [side // 8 for side in size]
    pixels = rng.integers(0, 11, (*coarse, *((3,) if mode == "RGB" else ())))
    image = Image.fromarray(pixels.astype(np.uint8), mode)
    file = io.BytesIO()
    image.resize(size[::-1], Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def _save(directory: pathlib.Path, content: dict[str, bytes]) -> pathlib.Path:
    for name, data in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def _camvid() -> dict[str, bytes]:
    content = {}
    for part, count in (("train", 3), ("val", 2), ("test", 2)):
        for i in range(count):
            content[f"{part}/{part}_{i}.png"] = _png((360, 480), "RGB", i)
            content[f"{part}annot/{part}_{i}.png"] = _png((360, 480), "L", 10 + i)
    return content


def _cityscapes() -> dict[str, bytes]:
    content = {}
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            city = f"{part}/bonn/bonn_00000{i}_000019"
            image = _png((1024, 2048), "RGB", i)
            content[f"leftImg8bit/{city}_leftImg8bit.png"] = image
            label = _png((1024, 2048), "L", 10 + i)
            content[f"gtFine/{city}_gtFine_labelIds.png"] = label
    return content


def test_camvid(tmp_path):
    source = _save(tmp_path / "CamVid", _camvid())
    prepare.prepare("camvid", tmp_path / "tfds", source)
    data = sources.load("camvid", data_dir=tmp_path / "tfds")
    assert [part.num_samples for part in (data.train, data.val, data.test)] == [3, 2, 2]
    stored = {x.tobytes() for x in data.val.labels}
    made = (Image.open(io.BytesIO(_png((360, 480), "L", 10 + i))) for i in range(2))
    assert stored == {np.asarray(image).tobytes() for image in made}


@pytest.mark.parametrize("zipped", [True, False])
def test_cityscapes(tmp_path, zipped):
    source = _save(tmp_path / "extracted", _cityscapes())
    if zipped:
        target = tmp_path / "zips"
        target.mkdir()
        for name in convert_maps.CITYSCAPES_ZIPS:
            folder = name.partition("_")[0]
            with zipfile.ZipFile(target / name, "w") as archive:
                for file in sorted((source / folder).rglob("*.png")):
                    archive.write(file, file.relative_to(source).as_posix())
        source = target
    prepare.prepare("cityscapes", tmp_path / "tfds", source)
    data = sources.load(
        "cityscapes", data_dir=tmp_path / "tfds", val_size=1, resize=(64, 128)
    )
    assert [part.num_samples for part in (data.train, data.val, data.test)] == [2, 1, 2]
    assert set(np.unique(data.test.labels)) == {0, 1, VOID}  # of ids 0..10: 7 and 8


def test_images_without_labels_are_named(tmp_path):
    content = _cityscapes()
    del content["gtFine/val/bonn/bonn_000001_000019_gtFine_labelIds.png"]
    source = _save(tmp_path / "city", content)
    with pytest.raises(UserError, match="1 images of leftImg8bit/val have no labels"):
        prepare.prepare("cityscapes", tmp_path / "tfds", source)
    assert not (tmp_path / "tfds" / "cityscapes" / "1.0.0").exists()


def test_damaged_images_and_missing_zips(tmp_path):
    content = _camvid() | {"val/val_1.png": b"no image"}
    source = _save(tmp_path / "CamVid", content)
    with pytest.raises(UserError, match=r"cannot read val/val_1\.png"):
        prepare.prepare("camvid", tmp_path / "tfds", source)
    only = tmp_path / "zips"
    only.mkdir()
    with zipfile.ZipFile(only / convert_maps.CITYSCAPES_ZIPS[0], "w"):
        pass
    with pytest.raises(UserError, match="has no gtFine_trainvaltest.zip"):
        prepare.prepare("cityscapes", tmp_path / "tfds", only)
