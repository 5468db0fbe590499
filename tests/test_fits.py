"""Fits are used again exactly while nothing has changed."""

import dataclasses

import jax
import numpy as np
import pytest

from eenet_jax.fits import fit_or_reuse
from eenet_jax.predictions import Predictions, Split


@pytest.fixture
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80).astype(np.int32)
    logits = rng.normal(size=(2, 80, 3)).astype(np.float32)
    split = Split(logits, labels)
    return Predictions(split, split, np.array([1.0, 2.0]))


def fit(
    predictions, folder, *, seed=0, calibration=0.0, budgets=(1.5,), which=0, **options
):
    """One fit of msdnet's rule."""
    return fit_or_reuse(
        "msdnet",
        predictions,
        budgets=np.array(budgets),
        key=jax.random.key(seed),
        calibration=calibration,
        folder=folder,
        seed=which,
        **options,
    )


def test_same_fit_is_read_back(predictions, tmp_path) -> None:
    first, seconds, reused = fit(predictions, tmp_path)
    assert not reused
    again, same_seconds, reused = fit(predictions, tmp_path)
    assert reused and same_seconds == seconds
    np.testing.assert_array_equal(again.thresholds, first.thresholds)


def test_any_change_fits_anew(predictions, tmp_path) -> None:
    fit(predictions, tmp_path)
    val = predictions.val
    dearer = predictions.with_costs(np.array([1.0, 3.0]), "units")
    heads = np.array([0.2, 0.2])
    costs = predictions.costs, predictions.cost_unit
    other_heads = predictions.with_costs(*costs, head_costs=heads)
    other_gates = predictions.with_costs(*costs, gate_costs=heads)
    other = dataclasses.replace(val, labels=np.roll(val.labels, 1))
    relabelled = dataclasses.replace(predictions, val=other)
    scaled = dataclasses.replace(predictions, activation_mean=heads)
    assert not fit(scaled, tmp_path)[2]
    assert not fit(dearer, tmp_path)[2]
    assert not fit(relabelled, tmp_path)[2]
    assert not fit(other_heads, tmp_path)[2]
    assert not fit(other_gates, tmp_path)[2]
    assert not fit(predictions, tmp_path, seed=1)[2]
    assert not fit(predictions, tmp_path, calibration=0.5)[2]
    assert not fit(predictions, tmp_path, budgets=(1.5, 1.7))[2]
    assert not fit(predictions, tmp_path, temperature=True)[2]
    assert not fit(predictions, tmp_path, ensemble=True)[2]
    frontier, _, reused = fit(predictions, tmp_path, ensemble=True)
    assert reused and frontier.adjustment.ensemble


def test_test_part_makes_no_difference(predictions, tmp_path) -> None:
    fit(predictions, tmp_path)
    test = predictions.val.take(np.arange(40))
    assert fit(dataclasses.replace(predictions, test=test), tmp_path)[2]


def test_damaged_fit_is_made_anew(predictions, tmp_path) -> None:
    fit(predictions, tmp_path)
    (tmp_path / "msdnet.npz").write_bytes(b"nothing")
    assert not fit(predictions, tmp_path)[2]
    (tmp_path / "msdnet.json").write_text("[")
    assert not fit(predictions, tmp_path)[2]
    assert fit(predictions, tmp_path)[2]


def test_fits_of_several_seeds_are_kept_beside_each_other(
    predictions, tmp_path
) -> None:
    for which in (0, 1, 2):
        assert not fit(predictions, tmp_path, seed=which, which=which)[2]
    names = {path.name for path in tmp_path.iterdir()}
    stems = ("msdnet", "msdnet_seed1", "msdnet_seed2")
    assert names == {f"{stem}.{end}" for stem in stems for end in ("npz", "json")}
    for which in (0, 1, 2):
        assert fit(predictions, tmp_path, seed=which, which=which)[2]


def test_other_code_fits_anew(predictions, tmp_path, monkeypatch) -> None:
    fit(predictions, tmp_path)
    assert fit(predictions, tmp_path)[2]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "new.py").write_text("# another recipe")
    code = str(tmp_path / "code" / "__init__.py")
    monkeypatch.setattr("eenet_jax.fits.schedulers.__file__", code)
    assert not fit(predictions, tmp_path)[2]
