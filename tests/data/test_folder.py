"""Folders of images: what belongs where, and what is refused by name."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from eenet_jax.data import folder
from eenet_jax.errors import UserError

FILES = (
    "train/cat/b.png",
    "train/cat/a.jpg",
    "train/cat/deep/er/c.WEBP",
    "train/ant/1.png",
    "train/ant/ñ 2.bmp",
    "train/bee/1.gif",
    "test/cat/1.png",
    "test/bee/1.png",
)
OTHER = ("train/cat/notes.txt", "train/.cache/x.png", "train/cat/._b.png", "README")


def _write(path, size=(8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = len(str(path.name)) * 9 % 256
    Image.new("RGB", size, (shade, 10, 20)).save(path)


@pytest.fixture
def root(tmp_path):
    """A folder of three classes, one of them without test images, and other files."""
    for file in FILES:
        _write(tmp_path / file)
    for file in OTHER:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"x")
    return tmp_path


def test_images_are_listed_by_class_and_path(root):
    records, names = folder.read(folder.find(str(root)))
    assert names == ("ant", "bee", "cat")
    assert set(records) == {"train", "test"}
    train = records["train"]
    assert [os.path.relpath(train.name(i), root) for i in range(len(train))] == [
        "train/ant/1.png",
        "train/ant/ñ 2.bmp",
        "train/bee/1.gif",
        "train/cat/a.jpg",
        "train/cat/b.png",
        "train/cat/deep/er/c.WEBP",
    ]
    assert train.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert train.labels.dtype == np.int32
    assert records["test"].labels.tolist() == [1, 2]
    content, label = train[1]
    assert content == (root / "train/ant/ñ 2.bmp").read_bytes() and label == 0
    copy = pickle.loads(pickle.dumps(train))
    assert copy[5] == train[5] and len(copy) == 6


def test_validation_is_read_where_there_is_one(root):
    _write(root / "val/ant/1.png")
    records, _ = folder.read(root)
    assert records["val"].labels.tolist() == [0]


def test_small_images_go_into_memory(root):
    train = folder.read(root)[0]["train"]
    size = folder.small_size(train)
    assert size == (6, 8)
    assert folder.small_size(train, most=7) is None
    images = folder.load_arrays(train, size)
    assert images.shape == (6, 6, 8, 3) and images.dtype == np.uint8
    with Image.open(train.name(4)) as image:
        np.testing.assert_array_equal(images[4], np.asarray(image))


def test_some_large_images_make_the_folder_large(root):
    _write(root / "train/cat/large.png", (65, 6))
    assert folder.small_size(folder.read(root)[0]["train"]) is None


def test_another_size_is_refused_with_both(root):
    _write(root / "train/cat/odd.png", (5, 9))
    train = folder.read(root)[0]["train"]
    message = "train/cat/odd.png has 5 x 9 pixels .* first image of train 8 x 6; give"
    with pytest.raises(UserError, match=message):
        folder.load_arrays(train, folder.small_size(train))


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_a_damaged_image_is_named(root, content):
    (root / "train/bee/1.gif").write_bytes(content)
    train = folder.read(root)[0]["train"]
    for function in (folder.small_size, lambda r: folder.load_arrays(r, (6, 8))):
        with pytest.raises(UserError, match="train/bee/1.gif is not an image of a "):
            function(train)


def test_an_image_that_is_gone_is_named(root):
    train = folder.read(root)[0]["train"]
    (root / "train/bee/1.gif").unlink()
    with pytest.raises(UserError, match="bee/1.gif cannot be read: No such file"):
        _ = train[2]


def test_missing_directories_are_named(tmp_path):
    for data_dir in (None, "", tmp_path / "absent", tmp_path):
        with pytest.raises(
            UserError, match="has no directory train and no test; .*jpg"
        ):
            folder.find(data_dir)
    (tmp_path / "train").mkdir()
    with pytest.raises(
        UserError, match="has no directory test; .* where there is one$"
    ):
        folder.find(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="to report on the images of val, rename it to"):
        folder.find(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "train/dog").mkdir(), r"train/dog has no images \(.jpg"),
        (lambda root: (root / "test/ant").mkdir(), r"test/ant has no images \(.jpg"),
        (lambda root: (root / "val").mkdir(), "val has no class directories; the cl"),
        (
            lambda root: _write(root / "test/dog/1.png"),
            "test has dog, of which train has no images; the classes are ant, bee, cat",
        ),
        (
            lambda root: [(root / f"val/x{i}").mkdir(parents=True) for i in range(7)],
            "val has x0, x1, x2, x3, x4 and 2 more, of which train",
        ),
    ],
)
def test_classes_that_do_not_fit_are_refused(root, change, message):
    change(root)
    with pytest.raises(UserError, match=message):
        folder.read(root)


def test_one_class_is_too_few(tmp_path):
    _write(tmp_path / "train/1.png")
    _write(tmp_path / "test/1.png")
    with pytest.raises(UserError, match="train has 0 class directories, must have at"):
        folder.read(tmp_path)
    _write(tmp_path / "train/cat/1.png")
    with pytest.raises(UserError, match="train has 1 class directories, must have at"):
        folder.read(tmp_path)
