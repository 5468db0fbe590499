"""CIFAR, SVHN and STL-10 converted from small files of their authors' forms."""

import io
import pathlib
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds

from eenet_jax.data import prepare, tfds_reader
from eenet_jax.errors import UserError

RNG = np.random.default_rng(0)


class _Python2Pickler(pickle._Pickler):
    """Writes byte and text strings as the strings of Python 2, as CIFAR's batches."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        data = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def _pickle(content, form: str = "python 2") -> bytes:
    if form == "python 3":
        return pickle.dumps(content, protocol=2)
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def _batch(count: int, **num_classes: int) -> dict:
    labels = {k: RNG.integers(0, n, count).tolist() for k, n in num_classes.items()}
    return {
        "batch_label": "a batch",
        "data": RNG.integers(0, 256, (count, 3072), np.uint8),
        "filenames": [f"{i}.png" for i in range(count)],
    } | labels


def _cifar10() -> dict[str, dict]:
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    meta = {"batches.meta": {"label_names": [f"class {i}" for i in range(10)]}}
    return {name: _batch(7, labels=10) for name in names} | meta


def _cifar100() -> dict[str, dict]:
    sizes = {"fine_labels": 100, "coarse_labels": 20}
    meta = {
        "fine_label_names": [f"fine {i}" for i in range(100)],
        "coarse_label_names": [f"coarse {i}" for i in range(20)],
    }
    return {"train": _batch(30, **sizes), "test": _batch(9, **sizes), "meta": meta}


def _save(directory: pathlib.Path, content: dict, form: str = "python 2"):
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        data = value if isinstance(value, bytes) else _pickle(value, form)
        (directory / name).write_bytes(data)
    return directory


def _examples(name: str, data_dir: pathlib.Path, split: str) -> list[dict]:
    builder = tfds.builder(name, data_dir=data_dir)  # as of the real set
    return list(builder.as_data_source(split))


@pytest.mark.parametrize("form", ["python 2", "python 3"])
def test_cifar10_archive(tmp_path, form):
    content = _cifar10()
    source = _save(tmp_path / "cifar-10-batches-py", content, form)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(source, source.name)
    shutil.rmtree(source)
    prepare.prepare("cifar10", tmp_path, tmp_path / "cifar-10-python.tar.gz")
    directory = tmp_path / "cifar10" / "3.0.2"
    arrays, names = tfds_reader.read(
        directory, ("train", "test"), shape=(32, 32, 3), num_classes=10
    )
    assert names == tuple(f"class {i}" for i in range(10))
    examples = _examples("cifar10", tmp_path, "train")
    train = [content[f"data_batch_{i}"] for i in range(1, 6)]
    data = np.concatenate([batch["data"] for batch in train])
    labels = np.concatenate([batch["labels"] for batch in train])
    rows = [int(example["id"].removeprefix(b"train_")) for example in examples]
    assert sorted(rows) == list(range(35)) and rows != sorted(rows)
    expected = data[rows].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(arrays["train"][0], expected)
    np.testing.assert_array_equal(arrays["train"][1], labels[rows])
    np.testing.assert_array_equal([e["label"] for e in examples], labels[rows])
    assert {e["id"][:5] for e in _examples("cifar10", tmp_path, "test")} == {b"test_"}


def test_cifar100_has_both_labels(tmp_path):
    content = _cifar100()
    _save(tmp_path / "in", content)
    prepare.prepare("cifar100", tmp_path, tmp_path / "in")
    for split in ("train", "test"):
        examples = _examples("cifar100", tmp_path, split)
        rows = [int(e["id"].rpartition(b"_")[2]) for e in examples]
        for key, stored in (("label", "fine"), ("coarse_label", "coarse")):
            expected = np.array(content[split][f"{stored}_labels"])[rows]
            np.testing.assert_array_equal([e[key] for e in examples], expected)
    info = tfds.builder("cifar100", data_dir=tmp_path).info
    assert info.features["label"].int2str(41) == "fine 41"
    assert info.features["coarse_label"].int2str(3) == "coarse 3"


class _Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", ["python 2", "python 3"])
def test_malicious_pickles_are_refused(tmp_path, form):
    trap = tmp_path / "trap"
    calls = [
        _Malicious(pathlib.os.system, f"touch {trap}"),
        _Malicious(exec, f"open({str(trap)!r}, 'w')"),
        _Malicious(np.memmap, str(trap), np.uint8, "w+", 0, (8,)),
        _Malicious(np.ndarray, (1 << 50,)),
        np.array([{}], object),
    ]
    for i, malicious in enumerate(calls):
        content = _cifar10() | {"data_batch_3": {"data": malicious}}
        source = _save(tmp_path / "in", content, form)
        with pytest.raises(UserError, match="cannot read data_batch_3: .*get it again"):
            prepare.prepare("cifar10", tmp_path / str(i), source)
        assert not trap.exists() and not (tmp_path / str(i)).exists()
    with pytest.raises(UserError, match=r"asks for (posix|nt).system, which was refu"):
        content = _cifar10() | {"data_batch_3": {"data": calls[0]}}
        prepare.prepare("cifar10", tmp_path, _save(tmp_path / "in", content, form))


def _with(**values):
    return _batch(7, labels=10) | values


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("data_batch_2", b"", "Ran out of input; get it again"),
        ("data_batch_2", b"\x80\x02]q\x00.", "it is not a batch"),
        ("data_batch_2", _pickle(_with())[:9000], "cannot read data_batch_2"),
        ("data_batch_2", _with(data=[1]), r"its data is not uint8 \[N, 3072\]"),
        ("data_batch_2", _with(data=np.zeros((7, 9), np.uint8)), "its data is not"),
        ("data_batch_2", {"labels": []}, "its data is not uint8"),
        ("data_batch_2", _with(labels=[1] * 6), "its labels are not 7 integers"),
        ("data_batch_2", _with(labels=["1"] * 7), "its labels are not 7 integers"),
        (
            "test_batch",
            _with(labels=[10] * 7),
            "label 10 of example 0 is not in 0..9",
        ),
        (
            "test_batch",
            _with(labels=[-1] * 7),
            "label -1 of example 0 is not in",
        ),
        ("batches.meta", {"label_names": ["a"] * 10}, "label_names are not 10 names"),
        ("batches.meta", {}, "label_names are not 10 names"),
    ],
)
def test_damaged_cifar_is_refused(tmp_path, name, value, message):
    source = _save(tmp_path / "in", _cifar10() | {name: value})
    with pytest.raises(UserError, match=message):
        prepare.prepare("cifar10", tmp_path / "out", source)
    (source / name).unlink()
    with pytest.raises(UserError, match=f"has no {name}; give cifar-10-python.tar.gz"):
        prepare.prepare("cifar10", tmp_path / "out", source)
    assert not (tmp_path / "out").exists()


def _svhn(source: pathlib.Path, split: str, labels, **changes) -> np.ndarray:
    import scipy.io

    images = RNG.integers(0, 256, (32, 32, 3, len(labels)), np.uint8)
    arrays = {"X": images, "y": np.array(labels, np.uint8)[:, None]} | changes
    scipy.io.savemat(source / f"{split}_32x32.mat", arrays, do_compression=True)
    return np.moveaxis(images, -1, 0)


def test_svhn(tmp_path):
    labels = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 2
    images = _svhn(tmp_path, "train", labels)
    _svhn(tmp_path, "test", [10])
    prepare.prepare("svhn_cropped", tmp_path, tmp_path)
    examples = _examples("svhn_cropped", tmp_path, "train")
    rows = [int(e["id"].removeprefix(b"train_")) for e in examples]
    np.testing.assert_array_equal([e["image"] for e in examples], images[rows])
    assert [int(e["label"]) for e in examples] == [(row + 1) % 10 for row in rows]
    (test,) = _examples("svhn_cropped", tmp_path, "test")
    assert (test["label"], test["id"]) == (0, b"test_000000")


def test_damaged_svhn_is_refused(tmp_path, monkeypatch):
    def refused(message):
        with pytest.raises(UserError, match=message):
            prepare.prepare("svhn_cropped", tmp_path / "out", tmp_path)

    refused("has no train_32x32.mat; give the directory of train_32x32.mat and")
    train = tmp_path / "train_32x32.mat"
    train.write_bytes(b"no MATLAB" * 100)
    refused("cannot read train_32x32.mat: .*get it again")
    _svhn(tmp_path, "train", [1, 2], X=np.zeros((32, 32, 2), np.uint8))
    refused(r"has no X, uint8 \[32, 32, 3, N\], with integers y")
    _svhn(tmp_path, "train", [1, 2], y=np.array([[1]]))
    refused("has 1 labels for 2 images")
    _svhn(tmp_path, "train", [1, 0])
    refused(r"label 0 of example 1 is not in 1\.\.10")
    _svhn(tmp_path, "train", [1])
    refused("has no test_32x32.mat")
    real = prepare.importlib.util.find_spec
    monkeypatch.setattr(
        prepare.importlib.util, "find_spec", lambda n: None if n == "scipy" else real(n)
    )
    refused("needs scipy; install it with: pip install scipy")
    assert not (tmp_path / "out").exists()


def _stl10(source: pathlib.Path) -> dict[str, np.ndarray]:
    images = {}
    for split, count in (("train", 6), ("test", 3)):
        images[split] = RNG.integers(0, 256, (count, 96, 96, 3), np.uint8)
        stored = images[split].transpose(0, 3, 2, 1)  # column by column
        (source / f"{split}_X.bin").write_bytes(stored.tobytes())
        (source / f"{split}_y.bin").write_bytes(bytes(range(1, count + 1)))
    names = [f"name{i}" for i in range(10)]
    (source / "class_names.txt").write_text("\n".join(names) + "\n")
    return images


def test_stl10_archive(tmp_path):
    source = tmp_path / "stl10_binary"
    source.mkdir()
    images = _stl10(source)
    with tarfile.open(tmp_path / "stl10.tar.gz", "w:gz") as tar:
        tar.add(source, source.name)
    prepare.prepare("stl10", tmp_path, tmp_path / "stl10.tar.gz")
    arrays, names = tfds_reader.read(
        tmp_path / "stl10" / "1.0.0",
        ("train", "test"),
        shape=(96, 96, 3),
        num_classes=10,
    )
    assert names == tuple(f"name{i}" for i in range(10))
    for split, (stored, labels) in arrays.items():
        assert sorted(labels) == list(range(len(images[split])))
        np.testing.assert_array_equal(stored, images[split][labels])


def test_damaged_stl10_is_refused(tmp_path):
    def refused(name, content, message):
        _stl10(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            prepare.prepare("stl10", tmp_path / "out", tmp_path)

    refused("train_X.bin", b"12", "2 bytes are no images of 96x96x3")
    refused("test_X.bin", b"", "0 bytes are no images")
    refused("train_y.bin", b"\1" * 5, "has 5 labels for 6 images")
    refused("train_y.bin", b"\0" * 6, r"label 0 of example 0 is not in 1\.\.10")
    refused("class_names.txt", b"a b", "class_names.txt: it has 2 names, not 10")
    assert not (tmp_path / "out").exists()
