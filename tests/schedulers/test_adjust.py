"""Adjusting logits: the temperature that is fitted, and the mean over past exits."""

import jax
import numpy as np
import pytest

from eenet_jax.predictions import TINY, Predictions, Split
from eenet_jax.schedulers.adjust import (
    Adjustment,
    adjust,
    adjust_all,
    adjust_predictions,
    adjust_split,
    fit_adjustment,
    fit_temperature,
)

K, N, C = 3, 120, 4
TEMPERATURE = np.array([0.5, 1.0, 3.0], np.float32)
ADJUSTMENTS = {
    "temperature": Adjustment(TEMPERATURE, False, C),
    "ensemble": Adjustment(None, True, C),
    "both": Adjustment(TEMPERATURE, True, C),
}
each = pytest.mark.parametrize("kind", ADJUSTMENTS)


def make_split(seed: int = 0, num_samples: int = N) -> Split:
    """Logits of three exits, each surer of the truth than the one before."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, num_samples)
    logits = rng.normal(size=(K, num_samples, C))
    logits[:, np.arange(num_samples), labels] += np.array([[0.5], [1.0], [1.5]])
    return Split(logits.astype(np.float32), labels.astype(np.int32))


def nll(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean negative log-likelihood of each exit, float64 ``[K]``."""
    logits = np.asarray(logits, np.float64)
    norm = np.logaddexp.reduce(logits, axis=-1)
    own = np.take_along_axis(logits, labels[None, :, None].astype(int), -1)[..., 0]
    return (norm - own).mean(axis=1)


def test_ensemble_worked_by_hand() -> None:
    probs = np.array([[[0.8, 0.2]], [[0.3, 0.7]], [[0.1, 0.9]]], np.float32)
    adjusted = adjust_all(Adjustment(None, True, 2), np.log(probs))
    expected = [[[0.8, 0.2]], [[0.55, 0.45]], [[0.4, 0.6]]]
    np.testing.assert_allclose(np.exp(adjusted), expected, rtol=1e-6)
    # Squared and normalised at T = 0.5: 16/17, 9/58 and 1/82 for the first class.
    tempered = Adjustment(np.full(3, 0.5, np.float32), True, 2)
    adjusted = adjust_all(tempered, np.log(probs))
    first = np.cumsum([16 / 17, 9 / 58, 1 / 82]) / [1, 2, 3]
    np.testing.assert_allclose(np.exp(adjusted)[:, 0, 0], first, rtol=1e-5)


def test_ensemble_tells_saturated_samples_apart() -> None:
    logits = np.zeros((2, 2, 2), np.float32)
    logits[:, :, 0] = [30.0, 40.0]  # max p is 1 in float32 for both
    adjusted = np.asarray(adjust_all(Adjustment(None, True, 2), logits))
    odds = adjusted[..., 0] - adjusted[..., 1]
    np.testing.assert_allclose(odds, [[30, 40], [30, 40]], rtol=1e-6)


@each
def test_steps_give_the_whole(kind) -> None:
    adjustment, logits = ADJUSTMENTS[kind], make_split().logits
    whole = jax.jit(adjust_all)(adjustment, logits)
    total = adjustment.init_total(N)
    for k in range(K):
        of_exit, total = adjust(adjustment, k, logits[k], total)
        np.testing.assert_allclose(of_exit, whole[k], rtol=1e-5, atol=1e-6)


def test_none_and_nothing_asked_for_change_nothing() -> None:
    split = make_split()
    assert adjust_split(None, split) is split
    assert adjust_all(None, split.logits) is split.logits
    assert fit_adjustment(split, temperature=False, ensemble=False) is None


def test_temperature_alone_changes_no_answer() -> None:
    split = make_split()
    adjusted = adjust_split(ADJUSTMENTS["temperature"], split)
    np.testing.assert_array_equal(adjusted.correct, split.correct)
    assert not np.allclose(adjusted.logits, split.logits)
    ensembled = adjust_split(ADJUSTMENTS["ensemble"], split)
    assert (ensembled.correct != split.correct).any()


def test_the_scale_of_logits_is_divided_like_them() -> None:
    split = make_split()
    scale = np.abs(split.logits).mean(axis=(1, 2), dtype=np.float64)
    given = Predictions(split, split, np.arange(1.0, K + 1), activation_mean=scale)
    seen = adjust_predictions(ADJUSTMENTS["temperature"], given)
    found = np.abs(seen.val.logits).mean(axis=(1, 2))
    np.testing.assert_allclose(seen.activation_mean, found, rtol=1e-5)
    assert adjust_predictions(None, given).activation_mean is scale


def test_temperature_is_where_the_likelihood_is_greatest() -> None:
    split = make_split(num_samples=400)
    found = np.asarray(fit_temperature(split.logits, split.labels))
    tried = np.geomspace(0.05, 20, 2001)
    losses = [nll(split.logits / t, split.labels) for t in tried]
    np.testing.assert_allclose(found, tried[np.argmin(losses, axis=0)], rtol=4e-3)


def test_three_times_the_logits_have_three_times_the_temperature() -> None:
    split = make_split()
    one = fit_temperature(split.logits, split.labels)
    three = fit_temperature(3 * split.logits, split.labels)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-3)


def hard_case(kind: str) -> Split:
    """Predictions of 50 samples that a temperature is hard to fit to."""
    split = make_split(num_samples=50)
    logits, labels = split.logits.copy(), split.labels
    if kind == "certain":  # probabilities 0 and 1 exactly, not all right
        probs = np.eye(C)[logits.argmax(-1)]
        logits = np.log(np.maximum(probs, TINY))
    elif kind == "all right":
        logits = 5 * np.broadcast_to(np.eye(C)[labels], logits.shape)
    elif kind == "all wrong":
        logits = -5 * np.broadcast_to(np.eye(C)[labels], logits.shape)
    elif kind == "constant":
        logits = np.zeros_like(logits)
    elif kind == "huge":
        logits = 1e30 * logits / np.abs(logits).max()
    elif kind == "absent":
        labels = np.minimum(labels, C - 2)
    elif kind == "one sample":
        return Split(logits[:, :1], labels[:1])
    return Split(logits.astype(np.float32), labels)


KINDS = ["small", "certain", "all right", "all wrong", "constant", "huge", "absent"]


@pytest.mark.parametrize("kind", [*KINDS, "one sample"])
def test_likelihood_does_not_fall(kind) -> None:
    split = hard_case(kind)
    found = np.asarray(fit_temperature(split.logits, split.labels))
    assert found.shape == (K,) and np.isfinite(found).all()
    assert (found >= 0.05).all() and (found <= 20).all()
    before = nll(split.logits, split.labels)
    after = nll(split.logits / found[:, None, None], split.labels)
    assert (after <= before * (1 + 1e-6)).all()
    if kind in ("all right", "constant"):
        np.testing.assert_array_equal(found, 1)
    if kind in ("all wrong", "certain", "huge"):
        assert (found > 5).all()
