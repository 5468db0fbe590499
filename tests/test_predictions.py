"""The predictions file: round trips, every kind of bad input, and whole writes."""

import dataclasses
import re

import numpy as np
import pytest

from eenet_jax.errors import UserError
from eenet_jax.predictions import (
    Predictions,
    Split,
    load_predictions,
    save_predictions,
)

K, N, C = 3, 4, 2


def arrays(**changes) -> dict[str, np.ndarray]:
    """A good file's content, of probabilities; a change to None leaves a key out."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(C), size=(2, K, N)).astype(np.float32)
    good = {
        "val_probs": probs[0],
        "val_labels": np.arange(N) % C,
        "test_probs": probs[1],
        "test_labels": np.arange(N)[::-1] % C,
        "costs": np.array([1.0, 2.0, 4.0]),
    }
    return {n: a for n, a in {**good, **changes}.items() if a is not None}


def altered(name: str, index, value) -> np.ndarray:
    """A key's array with one entry changed."""
    array = arrays()[name].copy()
    array[index] = value
    return array


@pytest.fixture
def write(tmp_path):
    """Writes arrays to a file and returns its path."""

    def write(content):
        path = tmp_path / "file.npz"
        np.savez(path, **content)
        return path

    return write


def full_predictions() -> Predictions:
    """Predictions with every field set."""
    rng = np.random.default_rng(1)

    def split(size):
        return Split(
            rng.normal(size=(K, size, C)).astype(np.float32),
            rng.integers(0, C, size).astype(np.int32),
            tuple(rng.normal(size=(size, d)).astype(np.float32) for d in (3, 1, 2)),
        )

    return Predictions(
        val=split(5),
        test=split(7),
        costs=np.array([1.0, 2.0, 4.0]),
        cost_unit="mflops",
        head_costs=np.array([0.1, 0.2, 0.3]),
        gate_costs=np.array([0.0, 0.1, 0.0]),
        activation_mean=np.array([1.0, 2.0, 3.0]),
        checkpoint_step=12,
    )


def test_round_trip(tmp_path) -> None:
    saved = full_predictions()
    save_predictions(tmp_path / "new" / "p.npz", saved)
    loaded = load_predictions(tmp_path / "new" / "p.npz")
    for part in ("val", "test"):
        one, other = getattr(saved, part), getattr(loaded, part)
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.labels, other.labels)
        for a, b in zip(one.features, other.features, strict=True):
            np.testing.assert_array_equal(a, b)
    for field in dataclasses.fields(Predictions):
        if field.name not in ("val", "test"):
            one, other = getattr(saved, field.name), getattr(loaded, field.name)
            np.testing.assert_array_equal(one, other)


def test_optional_keys_stay_none(tmp_path, write) -> None:
    loaded = load_predictions(write(arrays()))
    save_predictions(tmp_path / "again.npz", loaded)
    again = load_predictions(tmp_path / "again.npz")
    for name in ("head_costs", "gate_costs", "activation_mean", "checkpoint_step"):
        assert getattr(loaded, name) is None and getattr(again, name) is None
    assert again.val.features is None
    assert again.cost_unit == "units"


def test_sizes(write) -> None:
    loaded = load_predictions(write(arrays()))
    assert (loaded.num_exits, loaded.num_classes) == (K, C)
    assert loaded.val.num_samples == N


def test_probs_become_logits(write) -> None:
    given = arrays()
    logits = load_predictions(write(given)).test.logits
    assert logits.dtype == np.float32
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probs, given["test_probs"], rtol=1e-5)


def test_certain_probs_give_finite_logits(write) -> None:
    probs = np.tile(np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], (K, 1, 1))
    loaded = load_predictions(write(arrays(val_probs=probs)))
    assert np.isfinite(loaded.val.logits).all()
    np.testing.assert_array_equal(loaded.val.logits.argmax(-1), probs.argmax(-1))


@pytest.mark.parametrize("key", ["probs", "logits"])
def test_float16(write, key) -> None:
    given = arrays()["val_probs"].astype(np.float16)
    content = arrays(**{"val_probs": None, f"val_{key}": given})
    assert load_predictions(write(content)).val.logits.dtype == np.float32


def test_take_and_correct() -> None:
    split = full_predictions().test
    rows = np.array([3, 0])
    part = split.take(rows)
    np.testing.assert_array_equal(part.logits, split.logits[:, rows])
    np.testing.assert_array_equal(part.features[1], split.features[1][rows])
    np.testing.assert_array_equal(part.correct, split.correct[:, rows])
    assert split.correct.shape == (K, 7)


NAN_ROW = altered("val_probs", (1, 2, 0), np.nan)
BAD = {
    "no probs": ({"val_probs": None}, "val_probs or val_logits is missing"),
    "no labels": ({"test_labels": None}, "test_labels is missing"),
    "no costs": ({"costs": None}, "'costs' is missing"),
    "two axes": ({"val_probs": np.ones((4, 2))}, "val_probs must be float.*[4, 2]"),
    "integers": ({"val_probs": np.ones((3, 4, 2), int)}, "val_probs.*not int64"),
    "no samples": ({"val_probs": np.ones((3, 0, 2))}, "val_probs.*[3, 0, 2]"),
    "one class": ({"val_probs": np.ones((3, 4, 1))}, "at least 2 classes"),
    "exits differ": ({"test_probs": np.ones((2, 4, 2)) / 2}, "agree.*[2, 4, 2]"),
    "classes differ": ({"test_probs": np.ones((3, 4, 4)) / 4}, "agree.*[3, 4, 4]"),
    "NaN": ({"val_probs": NAN_ROW}, "val_probs[1, 2, 0]=nan must be finite"),
    "infinite": (
        {"test_probs": None, "test_logits": np.full((3, 4, 2), -np.inf)},
        "test_logits[0, 0, 0]=-inf must be finite",
    ),
    "negative": (
        {"val_probs": altered("val_probs", (2, 1), [-0.5, 1.5])},
        "val_probs[2, 1, 0]=-0.5 must not be negative",
    ),
    "sum": (
        {"test_probs": altered("test_probs", (0, 3), [0.25, 0.5])},
        "sum of test_probs[0, 3]=0.75 must be 1",
    ),
    "logits as probs": ({"val_probs": np.full((3, 4, 2), 7.0)}, "[0, 0]=14.0 must be"),
    "label above": ({"val_labels": np.array([0, 1, 2, 0])}, "val_labels[2]=2 .*0..1"),
    "label below": ({"test_labels": np.array([0, -1, 1, 0])}, "test_labels[1]=-1"),
    "label count": ({"val_labels": np.zeros(5, int)}, "val_labels must be .*[4].*[5]"),
    "label type": ({"val_labels": np.zeros(4)}, "val_labels must be integers"),
    "falling": ({"costs": np.array([1.0, 3.0, 2.0])}, "costs[2]=2.0 is below costs[1]"),
    "cost count": ({"costs": np.ones(4)}, "costs must be numbers [3].*[4]"),
    "cost NaN": ({"costs": np.array([1, np.nan, 2])}, "costs[1]=nan must be finite"),
    "cost negative": ({"costs": np.array([-1.0, 1, 2])}, "costs[0]=-1.0"),
    "free": ({"costs": np.zeros(3)}, "costs[2]=0.0 must be above 0"),
    "words": ({"costs": np.array(["a", "b", "c"])}, "costs must be numbers"),
    "heads": (
        {"head_costs": np.array([0.5, 1.25, 0.5])},
        "head_costs[1]=1.25 is more than exit k adds",
    ),
    "head count": ({"head_costs": np.ones(2)}, "head_costs must be numbers [3]"),
    "features gap": (
        {"val_features_1": np.ones((4, 2), np.float32)},
        "val_features_0 is missing, though val_features_1 is there",
    ),
    "features rows": (
        {"val_features_0": np.ones((3, 2), np.float32)},
        "val_features_0 must be float [4, D].*[3, 2]",
    ),
}


@pytest.mark.parametrize("changes, message", BAD.values(), ids=BAD)
def test_bad_content_is_named(write, changes, message) -> None:
    path = write(arrays(**changes))
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(UserError, match=pattern) as caught:
        load_predictions(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_rounded_rows_are_accepted(write) -> None:
    probs = arrays()["val_probs"].round(3)
    load_predictions(write(arrays(val_probs=probs)))


UNREADABLE = {
    "empty": (b"", "is empty"),
    "text": (b"hello, world", "cannot be read as .npz"),
    "half": (b"PK\x03\x04" + 60 * b"\0", "cannot be read as .npz"),
}


@pytest.mark.parametrize("content, message", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_file(tmp_path, content, message) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))} {message}"):
        load_predictions(path)


def test_truncated_archive(write) -> None:
    path = write(arrays())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as .npz"):
        load_predictions(path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(UserError, match="none.npz is not there"):
        load_predictions(tmp_path / "none.npz")


def test_directory(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read as .npz"):
        load_predictions(tmp_path)


def test_npy_is_refused(tmp_path) -> None:
    path = tmp_path / "file.npy"
    np.save(path, np.ones(3))
    with pytest.raises(UserError, match="write it with numpy.savez"):
        load_predictions(path)


def test_python_objects_are_refused(write) -> None:
    with pytest.raises(UserError, match="without Python objects"):
        load_predictions(write(arrays(val_labels=np.array([{}, 1, 2, 3], object))))


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "p.npz"
    save_predictions(path, full_predictions())
    before = path.read_bytes()

    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_predictions(path, full_predictions())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]  # nothing half-written


def test_with_costs() -> None:
    changed = full_predictions().with_costs(np.array([1, 2, 3]), "ms")
    np.testing.assert_array_equal(changed.costs, [1, 2, 3])
    assert (changed.cost_unit, changed.head_costs, changed.gate_costs) == (
        "ms",
        None,
        None,
    )
    with pytest.raises(UserError, match=r"costs\[1\]=1.0 is below"):
        changed.with_costs(np.array([2, 1, 3]), "ms")
