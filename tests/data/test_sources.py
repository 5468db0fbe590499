"""Data sets by name: the embedded digits, one's own arrays, the fixed split."""

import numpy as np
import pytest

from eenet_jax.data import sources
from eenet_jax.errors import UserError


def _rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("val_size", [1, 10, 99, 250, 500, 999])
def test_split_is_stratified_disjoint_and_fixed(val_size):
    labels = np.random.default_rng(0).choice(5, 1000, p=[0.5, 0.3, 0.1, 0.07, 0.03])
    train, val = sources.stratified_split(labels, val_size, seed=0)
    assert len(val) == val_size
    np.testing.assert_array_equal(
        np.sort(np.concatenate([train, val])), np.arange(1000)
    )
    shares = np.bincount(labels) * val_size / 1000
    assert (np.abs(np.bincount(labels[val], minlength=5) - shares) < 1).all()
    again = sources.stratified_split(labels, val_size, seed=0)
    np.testing.assert_array_equal(val, again[1])


def test_split_is_shuffled_by_its_seed():
    labels = np.arange(1000) % 2
    _, val = sources.stratified_split(labels, 100, seed=0)
    _, other = sources.stratified_split(labels, 100, seed=1)
    assert (val != other).any()
    assert 350 < val.mean() < 650  # not the beginning, not the end


def test_split_stays_the_same_for_ever():
    _, val = sources.stratified_split(np.arange(20) % 4, 8, seed=0)
    assert val.tolist() == [0, 1, 2, 3, 8, 11, 13, 18]


def test_split_copes_with_classes_that_do_not_occur():
    train, val = sources.stratified_split(np.array([7, 7, 2, 2]), 2, seed=0)
    assert len(train) == len(val) == 2


@pytest.mark.parametrize("val_size", [0, 8, 9])
def test_split_refuses_an_impossible_size(val_size):
    with pytest.raises(UserError, match=f"data.val_size={val_size} must be .* 1 to 7"):
        sources.stratified_split(np.zeros(8, int), val_size, seed=0)


def test_digits():
    data = sources.load("digits")
    parts = (data.train, data.val, data.test)
    assert tuple(len(part.labels) for part in parts) == (1000, 297, 500)
    for part in parts:
        assert part.images.shape == (len(part.labels), 8, 8, 1)
        assert part.images.dtype == np.uint8 and part.labels.dtype == np.int32
        share = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert share.min() > 0.09 and share.max() < 0.11
        assert np.abs(np.diff(part.labels)).mean() > 2  # shuffled
        assert part.images.max() == 255
    assert data.num_classes == 10 and data.class_names == tuple("0123456789")
    assert len(set.union(*(_rows(part.images) for part in parts))) == 1797
    x = data.train.images / 255
    np.testing.assert_allclose((data.mean[0], data.std[0]), (x.mean(), x.std()))


def test_digits_are_scikit_learn_s():
    datasets = pytest.importorskip("sklearn.datasets")
    data = sources.load("digits", val_size=297)
    original = datasets.load_digits()
    scaled = np.round(original.images * 255 / 16).astype(np.uint8)
    pairs = zip(scaled, original.target, strict=True)
    expected = {(image.tobytes(), int(label)) for image, label in pairs}
    ours = {
        (image.tobytes(), int(label))
        for part in (data.train, data.val, data.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }
    assert ours == expected


def test_digits_have_one_split_only():
    with pytest.raises(UserError, match="data.val_size=500 .*set data.val_size=297"):
        sources.load("digits", val_size=500)


def test_unknown_name_lists_the_choices():
    with pytest.raises(
        UserError, match="'cifar'; choose from ag_news_subset, camvid, cifar10"
    ):
        sources.check("cifar")
    with pytest.raises(UserError, match="data.name='cifar'"):
        sources.load("cifar")


def _arrays(**changes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, size in (("train", 40), ("test", 20)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (size, 6, 5, 3), np.uint8)
        arrays[f"{name}_labels"] = np.arange(size) % 4
    arrays.update(changes)
    return {key: value for key, value in arrays.items() if value is not None}


def test_npz(tmp_path):
    path, stored = tmp_path / "own.npz", _arrays()
    np.savez(path, **stored)
    sources.check("npz", path)
    data = sources.load("npz", data_dir=str(path), val_size=8)
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [32, 8, 20]
    assert data.train.labels.dtype == np.int32
    assert np.bincount(data.val.labels).tolist() == [2, 2, 2, 2]
    assert not _rows(data.train.images) & _rows(data.val.images)
    np.testing.assert_array_equal(data.test.images, stored["test_images"])
    assert data.num_classes == 4 and data.class_names is None
    x = data.train.images / 255
    np.testing.assert_allclose(data.mean, x.mean((0, 1, 2)))
    np.testing.assert_allclose(data.std, x.std((0, 1, 2)))
    assert len(sources.load("npz", data_dir=path).val.labels) == 4


def test_npz_with_its_own_validation_and_gray_images(tmp_path):
    path, gray = tmp_path / "own.npz", np.full((40, 6, 5), 51, np.uint8)
    own = {
        "train_images": gray,
        "test_images": gray[:20],
        "val_images": gray[:6],
        "val_labels": np.full(6, 5, np.uint8),
    }
    np.savez_compressed(path, **_arrays(**own))
    data = sources.load("npz", data_dir=path, val_size=1000)
    assert data.train.images.shape == (40, 6, 5, 1)
    assert len(data.val.labels) == 6
    assert data.num_classes == 6
    assert data.mean == (0.2,) and data.std == (1.0,)  # a constant image


IMAGES = np.zeros((40, 6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": None}, "lacks test_labels; it has test_images, train_im"),
        ({"val_images": IMAGES}, "lacks val_labels"),
        ({"train_images": IMAGES / 255}, "train_images are float64; give uint8"),
        ({"train_images": IMAGES[0]}, "one label for each of the 6 images"),
        ({"train_images": IMAGES[..., :2]}, r"shape \(40, 6, 5, 2\); give"),
        ({"train_images": IMAGES[:, :0]}, r"shape \(40, 0, 5, 3\); give"),
        ({"test_images": IMAGES[:0]}, "test_images are empty"),
        ({"test_images": IMAGES[:20, :5]}, r"test_images are \(5, 5, 3\) each, but"),
        ({"train_labels": np.zeros(40)}, "train_labels are float64; give integers"),
        ({"train_labels": np.zeros(39, int)}, r"shape \(39,\); give .* 40 images"),
        ({"train_labels": np.zeros((40, 4), int)}, r"shape \(40, 4\); give"),
        ({"train_labels": np.arange(40) - 1}, r"train_labels\[0\]=-1 is negative"),
        ({"test_labels": np.arange(20) + 2**31}, r"test_labels\[19\]=.* too large"),
        (
            {"test_labels": np.full((20, 6, 5), 255, np.uint8)},
            "test_labels are 255 .no class. everywhere; give at least one",
        ),
        (
            {"train_labels": np.zeros(40, int), "test_labels": np.zeros(20, int)},
            "two classes",
        ),
    ],
)
def test_npz_refuses(tmp_path, changes, message):
    path = tmp_path / "own.npz"
    np.savez(path, **_arrays(**changes))
    with pytest.raises(UserError, match=message) as caught:
        sources.load("npz", data_dir=path, val_size=8)
    assert str(path) in str(caught.value)


def test_npz_refuses_too_large_a_validation_part(tmp_path):
    np.savez(tmp_path / "own.npz", **_arrays())
    with pytest.raises(UserError, match="data.val_size=40 must be from 1 to 39"):
        sources.load("npz", data_dir=tmp_path / "own.npz", val_size=40)


def test_npz_refuses_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match="data.dir='' is no file.*train_images"):
        sources.check("npz")
    with pytest.raises(UserError, match="is no file"):
        sources.load("npz", data_dir=tmp_path / "absent.npz")
    path = tmp_path / "own.npz"
    np.savez(path, **_arrays())
    whole = path.read_bytes()
    for content in (b"", b"no arrays here", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read"):
            sources.load("npz", data_dir=path)
    corrupt = bytearray(whole)
    corrupt[len(whole) // 3] ^= 255
    path.write_bytes(bytes(corrupt))
    with pytest.raises(UserError, match="cannot read"):
        sources.load("npz", data_dir=path)
    np.savez(path, **_arrays(train_labels=np.array([{}] * 40, object)))
    with pytest.raises(UserError, match="cannot read"):
        sources.load("npz", data_dir=path)
    np.save(tmp_path / "bare.npy", IMAGES)
    with pytest.raises(UserError, match="is one array, not .npz"):
        sources.load("npz", data_dir=tmp_path / "bare.npy")
