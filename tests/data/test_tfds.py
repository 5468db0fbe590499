"""Prepared TFDS sets: read, and refused with the remedy."""

import dataclasses
import io
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eenet_jax.data import image_sets, sources, tfds_reader
from eenet_jax.errors import UserError

TINY = image_sets.TfdsFacts((6, 5, 3), 4, (0.5,) * 3, (0.2,) * 3, 8)


def _write(data_dir: pathlib.Path, sizes: dict[str, int], *, label_shift: int = 0):
    """Writes a TFDS set "tiny" and returns its arrays, in no promised order."""
    rng = np.random.default_rng(0)
    arrays = {
        split: (rng.integers(0, 256, (n, 6, 5, 3), np.uint8), np.arange(n) % 4)
        for split, n in sizes.items()
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(6, 5, 3)),
                "label": tfds.features.ClassLabel(num_classes=4),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {k: self._generate_examples(*v) for k, v in arrays.items()}

        def _generate_examples(self, images, labels):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                file = io.BytesIO()
                Image.fromarray(image).save(file, format="PNG")
                file.seek(0)
                yield i, {"image": file, "label": int(label) + label_shift}

    Tiny.name = "tiny"
    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return arrays


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Where a set "tiny" stands prepared, and its arrays."""
    monkeypatch.setattr(sources, "TFDS", {"tiny": TINY})
    monkeypatch.setattr(sources, "NAMES", ("tiny",))
    return tmp_path, _write(tmp_path, {"train": 40, "test": 20, "validation": 12})


def _pairs(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(x.tobytes(), int(y)) for x, y in zip(images, labels, strict=True)}


def test_load(tiny):
    data_dir, arrays = tiny
    sources.check("tiny", data_dir)
    data = sources.load("tiny", data_dir=str(data_dir))
    assert data.train.images.shape == (32, 6, 5, 3)
    assert data.val.images.shape == (8, 6, 5, 3)
    train, val = (_pairs(p.images, p.labels) for p in (data.train, data.val))
    assert train | val == _pairs(*arrays["train"]) and not train & val
    test = _pairs(data.test.images, data.test.labels)
    assert test == _pairs(*arrays["test"])
    assert data.train.labels.dtype == np.int32 and data.train.images.dtype == np.uint8
    assert (data.num_classes, data.mean, data.std) == (4, TINY.mean, TINY.std)
    assert data.class_names is None
    assert len(sources.load("tiny", data_dir=data_dir, val_size=5).val.labels) == 5


def test_split_is_the_same_at_every_load(tiny):
    first, second = (sources.load("tiny", data_dir=tiny[0]) for _ in range(2))
    np.testing.assert_array_equal(first.val.images, second.val.images)


def test_default_directory_is_that_of_tfds(tiny, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny[0]))
    assert len(sources.load("tiny").test.labels) == 20


def test_official_validation_part_can_be_the_test(tiny, monkeypatch):
    facts = dataclasses.replace(TINY, test_split="validation")
    monkeypatch.setattr(sources, "TFDS", {"tiny": facts})
    data = sources.load("tiny", data_dir=tiny[0])
    arrays = tiny[1]["validation"]
    assert _pairs(data.test.images, data.test.labels) == _pairs(*arrays)


def test_newest_version_is_read(tiny):
    directory = tiny[0] / "tiny"
    for version in ("1.10.0", "1.9.0", "incomplete.AB_2.0.0"):
        (directory / version).mkdir()
        info = (directory / "1.2.0" / "dataset_info.json").read_bytes()
        (directory / version / "dataset_info.json").write_bytes(info)
    assert tfds_reader.find("tiny", tiny[0]) == directory / "1.10.0"


@pytest.mark.parametrize("name", sorted(sources.TFDS))
def test_unprepared_set_names_directory_and_command(tmp_path, name):
    for look in (sources.check, lambda n, d: sources.load(n, data_dir=d)):
        with pytest.raises(UserError) as caught:
            look(name, tmp_path / "my data")
        text = str(caught.value)
        assert str(tmp_path / "my data" / name) in text
        command = f"python -m eenet_jax.data.prepare {name} --data_dir='{tmp_path}/my"
        assert command in text


def test_other_format_is_refused(tiny):
    info = tiny[0] / "tiny" / "1.2.0" / "dataset_info.json"
    content = json.loads(info.read_text())
    info.write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="'tfrecord'.*another data.dir.*prepare tiny"):
        sources.check("tiny", tiny[0])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_broken_info_is_refused(tiny, content):
    (tiny[0] / "tiny" / "1.2.0" / "dataset_info.json").write_text(content)
    with pytest.raises(UserError, match="cannot read .*prepare it again with: python"):
        sources.check("tiny", tiny[0])


@pytest.mark.parametrize("keep", [None, 0, 100])
def test_broken_records_are_refused(tiny, keep):
    (file,) = (tiny[0] / "tiny" / "1.2.0").glob("*-train.array_record*")
    if keep is None:
        file.unlink()
    else:
        os.truncate(file, keep)
    with pytest.raises(UserError, match="cannot read .*prepare it again with: python"):
        sources.load("tiny", data_dir=tiny[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (8, 8, 3)}, r"\(6, 5, 3\) with 4 classes; tiny has \(8, 8, 3\)"),
        ({"num_classes": 7}, "with 4 classes; tiny has .* and 7"),
        ({"test_split": "extra"}, "no examples in extra, only in test, train, val"),
        ({"val_size": 40}, "data.val_size=40 must be from 1 to 39"),
    ],
)
def test_other_content_is_refused(tiny, monkeypatch, change, message):
    facts = dataclasses.replace(TINY, **change)
    monkeypatch.setattr(sources, "TFDS", {"tiny": facts})
    with pytest.raises(UserError, match=message):
        sources.load("tiny", data_dir=tiny[0])


def test_unlabelled_examples_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TFDS", {"tiny": TINY})
    monkeypatch.setattr(sources, "NAMES", ("tiny",))
    _write(tmp_path, {"train": 8, "test": 4}, label_shift=-1)  # TFDS marks them -1
    with pytest.raises(UserError, match=r"labels .* from -1 to 2.*in 0\.\.3"):
        sources.load("tiny", data_dir=tmp_path)
