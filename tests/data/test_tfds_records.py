"""TFDS sets read record by record: configs, labels, workers, what is refused."""

import io
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from eenet_jax import files
from eenet_jax.data import decode, stream, tfds_records
from eenet_jax.errors import UserError

find, Records = tfds_records.find_tfds, tfds_records.TfdsRecords


def _write(data_dir: pathlib.Path, *, label_shift: int = 0, names=None) -> None:
    """Writes 30 images of one grey each, 7 to 17 pixels wide, as a TFDS set "tiny"."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            classes = {"names": names} if names else {"num_classes": 3}
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(**classes),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(30):
                file = io.BytesIO()
                image = Image.new("RGB", (7 + i % 11, 9), (8 * i,) * 3)
                image.save(file, format="PNG")
                file.seek(0)
                yield i, {"image": file, "label": i % 3 + label_shift}

    Tiny.name = "tiny"
    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture
def root(tmp_path):
    """A TFDS directory with the set "tiny"."""
    _write(tmp_path)
    return tmp_path


def _greys(records: Records) -> list[int]:
    return [
        int(decode.whole_image(records[i][0])[0, 0, 0]) // 8
        for i in range(len(records))
    ]


def test_records(root):
    records = Records(find("tiny", root), "train")
    greys = _greys(records)
    assert sorted(greys) == list(range(30))
    labels = records.labels()
    assert labels.dtype == np.int32
    assert labels.tolist() == [grey % 3 for grey in greys]
    assert labels.tolist() == [records[i][1] for i in range(30)]
    assert records.num_classes == 3 and records.class_names is None
    assert records.name(4) == f"record 4 of split 'train' in {root / 'tiny' / '1.2.0'}"
    copy = pickle.loads(pickle.dumps(records))
    assert copy[7] == records[7] and len(copy) == 30


def test_class_names(tmp_path):
    _write(tmp_path, names=["ant", "bee", "cat"])
    assert Records(find("tiny", tmp_path), "train").class_names == ("ant", "bee", "cat")


def test_a_worker_reads_them(root):
    records = Records(find("tiny", root), "train")
    labels = records.labels()
    split = stream.StreamSplit(records, labels, np.arange(30), 4, 4)
    (batch,) = stream.eval_batches(split, batch_size=30, num_workers=1)
    assert (batch[0][:, 2, 2, 0] // 8).tolist() == _greys(records)
    np.testing.assert_array_equal(batch[1], labels)


def test_a_config_is_found_where_there_is_one(root):
    shutil.move(root / "tiny" / "1.2.0", root / "tiny" / "small" / "1.2.0")
    for name in ("tiny", "tiny/small"):
        assert find(name, root) == root / "tiny" / "small" / "1.2.0"
    assert len(Records(find("tiny", root), "train")) == 30
    shutil.copytree(root / "tiny" / "small", root / "tiny" / "large")
    assert find("tiny/large", root) == root / "tiny" / "large" / "1.2.0"
    message = "several configs in .*choose data.name='tiny/large' .* large, small$"
    with pytest.raises(UserError, match=message):
        find("tiny", root)
    shutil.copytree(root / "tiny" / "small" / "1.2.0", root / "tiny" / "1.0.0")
    assert find("tiny", root) == root / "tiny" / "1.0.0"


def test_unprepared_set_names_directory_and_command(tmp_path):
    (tmp_path / "imagenette" / "incomplete").mkdir(parents=True)
    for name in ("imagenette", "imagenet2012"):
        with pytest.raises(UserError, match=f"prepare {name} --data_dir={tmp_path}"):
            find(name, tmp_path)


def test_labels_of_large_sets_are_kept(root, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_records, "_KEPT_FROM", 30)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = find("tiny", root)
    labels = Records(directory, "train").labels()
    (kept,) = (tmp_path / "cache" / "eenet_jax").iterdir()
    files.save_arrays(kept, {"labels": labels[::-1].copy()})
    np.testing.assert_array_equal(Records(directory, "train").labels(), labels[::-1])
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(Records(directory, "train").labels(), labels)
    files.save_arrays(kept, {"labels": labels[::-1].copy()})
    os.utime(directory / "dataset_info.json", ns=(1, 1))  # another set by now
    np.testing.assert_array_equal(Records(directory, "train").labels(), labels)
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # a file: nothing can be kept
    np.testing.assert_array_equal(Records(directory, "train").labels(), labels)


def test_labels_of_small_sets_are_not_kept(root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Records(find("tiny", root), "train").labels()
    assert not (tmp_path / "cache").exists()


def test_unlabelled_records_are_refused(tmp_path):
    _write(tmp_path, label_shift=-1)  # TFDS marks them -1
    records = Records(find("tiny", tmp_path), "train")
    with pytest.raises(UserError, match=r"'train' go from -1 to 1; .* in 0\.\.2"):
        records.labels()


def test_other_content_is_refused(root):
    directory = find("tiny", root)
    with pytest.raises(UserError, match="no examples in test, only in train; prepare"):
        Records(directory, "test")
    features = directory / "features.json"
    text = features.read_text()
    features.write_text(text.replace('"label"', '"kind"'))
    with pytest.raises(UserError, match="has features image, kind; only sets with"):
        Records(directory, "train")
    features.write_text("{")
    with pytest.raises(UserError, match=f"cannot read {directory}: .*prepare it again"):
        Records(directory, "train")


@pytest.mark.parametrize("keep", [None, 0, 100])
def test_broken_records_are_refused(root, keep):
    records = Records(find("tiny", root), "train")
    (file,) = records.directory.glob("*-train.array_record*")
    if keep is None:
        file.unlink()
    else:
        os.truncate(file, keep)
    for function in (records.labels, lambda: records[0]):
        with pytest.raises(UserError, match="cannot read .*: .*prepare it again"):
            function()


@pytest.mark.slow
def test_tiny_imagenet_for_real(shared, tmp_path):
    script = shared / "data" / "make_tfds.py"
    command = [sys.executable, str(script), "--out", str(tmp_path), "tiny_imagenet"]
    subprocess.run(command, check=True, capture_output=True)
    records = Records(find("tiny_imagenet", tmp_path), "validation")
    labels = records.labels()
    assert np.bincount(labels).tolist() == [50] * 200
    split = stream.StreamSplit(records, labels, np.arange(10_000), 64, 64)
    seen = 0
    for images, found, mask in stream.eval_batches(
        split, batch_size=512, num_workers=2
    ):
        np.testing.assert_array_equal(found[mask], labels[seen : seen + mask.sum()])
        assert images[mask].std((1, 2, 3)).min() > 0
        seen += mask.sum()
    assert seen == 10_000
