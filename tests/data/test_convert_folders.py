"""ImageNet and its subsets converted from small copies of their forms."""

import io
import pathlib
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eenet_jax.data import convert, convert_folders, prepare, tfds_reader
from eenet_jax.errors import UserError

FACTS = pathlib.Path(tfds.core.tfds_path("datasets/imagenet2012"))
WNIDS = (FACTS / "labels.txt").read_text().split()
VAL_WNIDS = (FACTS / "validation_labels.txt").read_text().split()


def _image(mode: str = "RGB", size=(64, 64), form: str = "JPEG", seed: int = 0):
    channels = {"L": (), "CMYK": (4,)}.get(mode, (3,))
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], *channels))
    encoded = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8), mode=mode).save(encoded, form)
    return encoded.getvalue()


def _save(directory: pathlib.Path, content: dict[str, bytes]) -> pathlib.Path:
    for name, data in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def _stored(directory: pathlib.Path, split: str) -> list[dict]:
    builder = tfds.builder_from_directory(directory)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    return list(builder.as_data_source(split, decoders=undecoded))


def _tiny_imagenet() -> dict[str, bytes]:
    wnids = WNIDS[300:100:-1]  # wnids.txt is not sorted
    content = {"wnids.txt": "\n".join(wnids).encode()}
    lines = []
    for i, wnid in enumerate(wnids):
        modes = {0: "L", 1: "CMYK"}
        name = f"train/{wnid}/images/{wnid}_0.JPEG"
        content[name] = _image(modes.get(i, "RGB"), seed=i)
        content[f"val/images/val_{i}.JPEG"] = _image(seed=1000 + i)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    content["val/val_annotations.txt"] = "".join(lines).encode()
    content["train/n02124075/n02124075_boxes.txt"] = b""
    content["test/images/test_0.JPEG"] = _image()
    return content


def test_tiny_imagenet_archive(tmp_path):
    content = _tiny_imagenet()
    source = tmp_path / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for name, data in content.items():
            archive.writestr(f"tiny-imagenet-200/{name}", data)
    prepare.prepare("tiny_imagenet", tmp_path, source)
    directory = tmp_path / "tiny_imagenet" / "1.0.0"
    arrays, names = tfds_reader.read(
        directory, ("train", "validation"), shape=(64, 64, 3), num_classes=200
    )
    assert names == tuple(WNIDS[101:301])
    for split, form in (("train", "train/{1}/images/{1}_0"), ("validation", "{0}")):
        images, labels = arrays[split]
        assert sorted(labels) == list(range(200))
        for image, label in zip(images, labels, strict=True):
            name = form.format(f"val/images/val_{199 - label}", names[label])
            with Image.open(io.BytesIO(content[f"{name}.JPEG"])) as original:
                np.testing.assert_array_equal(image, original.convert("RGB"))
    encoded = {example["image"] for example in _stored(directory, "train")}
    assert len(encoded & set(content.values())) == 198  # all in RGB are as they were


def test_tiny_imagenet_with_val_by_class(tmp_path):
    content = _tiny_imagenet()
    for line in content["val/val_annotations.txt"].decode().splitlines():
        name, wnid, *_ = line.split("\t")
        content[f"val/{wnid}/{name}"] = content.pop(f"val/images/{name}")
    prepare.prepare("tiny_imagenet", tmp_path, _save(tmp_path / "in", content))
    for example in _stored(tmp_path / "tiny_imagenet" / "1.0.0", "validation"):
        wnid = WNIDS[101 + example["label"]]
        assert example["image"] in [
            data for name, data in content.items() if name.startswith(f"val/{wnid}/")
        ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("wnids.txt", b"n1 n2", "wnids.txt: it has 2 classes, not 200"),
        ("train/n9/images/n9_0.JPEG", b"", "n9_0.JPEG has none of the set's 200 class"),
        ("val/images/val_200.JPEG", b"", "val_200.JPEG has none of the set's 200"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn9\n", "val_0.JPEG has none of the"),
        (f"train/{WNIDS[150]}/images/{WNIDS[150]}_0.JPEG", None, "of 1 classes, n02"),
        ("val/val_annotations.txt", None, "has no val/val_annotations.txt; give tiny-"),
        ("wnids.txt", None, "has no wnids.txt; give tiny-imagenet-200.zip or its dir"),
    ],
)
def test_damaged_tiny_imagenet_is_refused(tmp_path, name, data, message):
    content = _tiny_imagenet() | {name: data}
    source = _save(tmp_path, {k: v for k, v in content.items() if v is not None})
    with pytest.raises(UserError, match=message):
        prepare.prepare("tiny_imagenet", tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image", "val_7.JPEG: cannot identify image file .*get it again"),
        (_image(size=(64, 63)), r"val_7.JPEG: its size is \(64, 63\), not \(64, 64\)"),
        (_image("L")[:500], "val_7.JPEG: image file is truncated"),
    ],
)
def test_damaged_images_leave_no_half_written_set(tmp_path, data, message):
    source = _save(tmp_path, _tiny_imagenet() | {"val/images/val_7.JPEG": data})
    with pytest.raises(UserError, match=message):
        prepare.prepare("tiny_imagenet", tmp_path / "out", source)
    assert list((tmp_path / "out").glob("*/*")) == []  # train was written by then


def _by_class(classes) -> dict[str, bytes]:
    content = {}
    for i, wnid in enumerate(classes):
        content[f"train/{wnid}/{wnid}_{i}.JPEG"] = _image(size=(9 + i % 5, 8), seed=i)
        name = f"val/{wnid}/ILSVRC2012_val_{i + 1:08}.JPEG"
        content[name] = _image(size=(8, 9 + i % 5), seed=2000 + i)
    return content


def _check_bytes(directory: pathlib.Path, content, classes) -> None:
    """Checks that the splits hold the files of "train" and "val" by class."""
    for split, folder in (("train", "train/"), ("validation", "val/")):
        stored = {x["image"]: x["label"] for x in _stored(directory, split)}
        expected = {
            data: classes.index(name.split("/")[1])
            for name, data in content.items()
            if name.startswith(folder)
        }
        assert stored == expected


def test_imagenette_archive(tmp_path):
    content = _by_class(convert_folders.IMAGENETTE)
    grey = "train/n03000684/n03000684_99.JPEG"
    content[grey] = _image("L", size=(31, 20))
    source = _save(tmp_path / "imagenette2-320", content)
    _save(source, {"train/.DS_Store": b"", "train/n03000684/._x.JPEG": b""})
    with tarfile.open(tmp_path / "imagenette2-320.tgz", "w:gz") as tar:
        tar.add(source, source.name)
    prepare.prepare("imagenette", tmp_path, tmp_path / "imagenette2-320.tgz")
    directory = tmp_path / "imagenette" / "1.0.0"
    _check_bytes(directory, content, convert_folders.IMAGENETTE)
    label = tfds.builder_from_directory(directory).info.features["label"]
    assert label.names == list(convert_folders.IMAGENETTE)


def test_images_few_decoders_take_become_jpegs(tmp_path):
    content = _by_class(convert_folders.IMAGENETTE)
    odd = {"png": _image(form="PNG"), "cmyk": _image("CMYK")}
    for name, data in odd.items():
        content[f"train/n01440764/{name}.JPEG"] = data
    prepare.prepare("imagenette", tmp_path, _save(tmp_path / "in", content))
    stored = [x["image"] for x in _stored(tmp_path / "imagenette/1.0.0", "train")]
    new = [data for data in stored if data not in content.values()]
    assert len(new) == len(odd)
    for data in new:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
            pixels = np.asarray(image, int)
        differences = []
        for before in odd.values():
            with Image.open(io.BytesIO(before)) as original:
                rgb = np.asarray(original.convert("RGB"), int)
            differences.append(np.abs(pixels - rgb).mean())
        assert min(differences) < 2


def test_imagenette_lacking_a_class_is_refused(tmp_path):
    source = _save(tmp_path, _by_class(convert_folders.IMAGENETTE[:-1]))
    with pytest.raises(UserError, match="train has no images of 1 classes, n03888257"):
        prepare.prepare("imagenette", tmp_path / "out", source)
    _save(tmp_path, {"train/stray.JPEG": b""})
    with pytest.raises(UserError, match="train/stray.JPEG has none of the set's 10"):
        prepare.prepare("imagenette", tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def _tar(path: pathlib.Path, content: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path.read_bytes()


@pytest.fixture(scope="module")
def imagenet():
    """An image of each class in "train", and validation images of all classes."""
    content = {k: v for k, v in _by_class(WNIDS).items() if k.startswith("train/")}
    for i, wnid in enumerate(WNIDS):
        number = VAL_WNIDS.index(wnid) + 1
        name = f"val/{wnid}/ILSVRC2012_val_{number:08}.JPEG"
        content[name] = _image(size=(8, 9), seed=2000 + i)
    return content


@pytest.mark.parametrize("form", ["by class", "flat", "tars"])
def test_imagenet2012(tmp_path, monkeypatch, imagenet, form):
    content = imagenet
    flat = {f"val/{k.rpartition('/')[2]}": v for k, v in content.items() if "val_" in k}
    if form == "by class":
        _save(tmp_path / "in", content)
    elif form == "flat":
        train = {k: v for k, v in content.items() if "val_" not in k}
        _save(tmp_path / "in", train | flat)
    else:
        (tmp_path / "in").mkdir()
        scratch = tmp_path / "scratch.tar"
        tars = {}
        for wnid in WNIDS:
            below = f"train/{wnid}/"
            inner = {
                name.removeprefix(below): data
                for name, data in content.items()
                if name.startswith(below)
            }
            tars[f"{wnid}.tar"] = _tar(scratch, inner)
        val = {name.removeprefix("val/"): data for name, data in flat.items()}
        _tar(tmp_path / "in" / "ILSVRC2012_img_train.tar", tars)
        _tar(tmp_path / "in" / "ILSVRC2012_img_val.tar", val)
    sizes = []
    add = tfds.core.SequentialWriter.add_examples
    monkeypatch.setattr(
        tfds.core.SequentialWriter,
        "add_examples",
        lambda self, x: sizes.extend(map(len, x.values())) or add(self, x),
    )
    monkeypatch.setattr(convert_folders, "_SHARD_SIZE", 300)
    prepare.prepare("imagenet2012", tmp_path, tmp_path / "in")
    directory = tmp_path / "imagenet2012" / "5.1.0"
    _check_bytes(directory, content, WNIDS)
    names = {x["file_name"].decode() for x in _stored(directory, "validation")}
    assert names == {name.removeprefix("val/") for name in flat}
    assert sum(sizes) == 2000 and max(sizes) <= convert._CHUNK
    assert len(list(directory.glob("imagenet2012-train.array_record*"))) == 4


def test_damaged_imagenet2012_is_refused(tmp_path, imagenet):
    def refused(message, source):
        with pytest.raises(UserError, match=message):
            prepare.prepare("imagenet2012", tmp_path / "out", source)

    refused("has no train or ILSVRC2012_img_train.tar; give a directory of", tmp_path)
    tars = tmp_path / "tars"
    tars.mkdir()
    _tar(tars / "ILSVRC2012_img_train.tar", {"n01440764.tar": b"no tar"})
    refused("cannot read ILSVRC2012_img_train.tar or ILSVRC2012_img_val.tar", tars)
    _tar(tars / "ILSVRC2012_img_train.tar", {})
    refused("No such file .*ILSVRC2012_img_val.tar", tars)
    _tar(tars / "ILSVRC2012_img_val.tar", {})
    refused("train has no images of 1000 classes, n01440764 being", tars)
    source = _save(
        tmp_path / "in", {k: v for k, v in imagenet.items() if "val_" not in k}
    )
    refused("val has no images of 1000 classes", source)
    name = "val/ILSVRC2012_val_00050001.JPEG"
    refused(f"{name} has none of the set's 1000", _save(source, {name: b""}))
    assert not (tmp_path / "out").exists()


def test_real_imagenette_sample(tmp_path, shared):
    source = shared / "data" / "imagenette" / "imagenette_sample.zip"
    prepare.prepare("imagenette", tmp_path, source)
    stored = _stored(tmp_path / "imagenette" / "1.0.0", "validation")
    assert np.bincount([x["label"] for x in stored]).tolist() == [50] * 10
