"""Guarantees: false alarms are as rare as said, and little of the budget is lost."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers.guarantee import is_below, last_certified


def make_split(num_samples: int, seed: int) -> Split:
    """Three exits of rising accuracy on five classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num_samples)
    logits = rng.normal(size=(3, num_samples, 5))
    strength = np.array([1.0, 2.0, 3.0])[:, None] * rng.uniform(0, 2, num_samples)
    logits[:, np.arange(num_samples), labels] += strength
    return Split(logits.astype(np.float32), labels.astype(np.int32))


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    costs = np.array([1.0, 2.5, 4.0])
    return Predictions(make_split(1500, 0), make_split(4000, 1), costs)


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        values = np.where(rng.random(500) < 0.6, rng.choice([0.0, 0.5], 500), 1.0)
        alarms += is_below(values, values_mean := 0.55, 0.95)
    assert values_mean == 0.6 * 0.25 + 0.4
    assert alarms <= 30  # 5 % of 400, and two standard deviations


def test_power_is_close_to_normal() -> None:
    rng = np.random.default_rng(0)
    gap = 2.9 * 0.5 / np.sqrt(2000)  # 2.9 standard errors below the bound
    hits = [
        is_below((rng.random(2000) < 0.5) * 1.0, 0.5 + gap, 0.95) for _ in range(50)
    ]
    assert np.mean(hits) > 0.6


def test_bounds_outside_the_range_need_no_test() -> None:
    assert is_below(np.ones(3), 1.0, 0.95)
    assert not is_below(np.zeros(3), 0.0, 0.95)


def test_testing_stops_at_the_first_failure() -> None:
    zeros, ones = np.zeros(200), np.ones(200)
    assert last_certified([zeros, zeros, ones, zeros], 0.5, 0.95) == 1
    assert last_certified([ones, zeros], 0.5, 0.95) == -1


@pytest.mark.parametrize("name", ["msdnet", "maxprob_opt"])
def test_certified_budget_is_safer_and_mostly_spent(predictions, name, key) -> None:
    fitted = schedulers.fit(name, predictions, key=key, calibration=0.5)
    held = fitted.held
    assert held.exits.shape == (len(fitted.member), 750)
    for budget in (1.75, 2.5, 3.25):
        sure = fitted.for_budget(budget, confidence=0.95)
        exits = np.asarray(sure.decide(predictions.test.logits))
        mean = predictions.costs[exits].mean()
        assert 0.85 * budget < mean <= 1.02 * budget


def cost_of(policy, predictions) -> float:
    """Mean test cost."""
    exits = np.asarray(policy.decide(predictions.test.logits))
    return predictions.costs[exits].mean()


def test_cheapest_budget_is_always_certain(predictions, key) -> None:
    fitted = schedulers.fit("msdnet", predictions, key=key, calibration=0.5)
    assert cost_of(fitted.for_budget(1.0, confidence=0.99), predictions) == 1.0


def test_small_drop_allows_less_saving(predictions, key) -> None:
    fitted = schedulers.fit("maxprob_opt", predictions, key=key, calibration=0.5)
    costs = [
        cost_of(fitted.for_drop(drop, 0.95), predictions) for drop in (0, 0.05, 0.3)
    ]
    assert costs[0] == 4.0
    assert costs[0] >= costs[1] >= costs[2] and costs[2] < 4.0


def test_guarantees_survive_saving(predictions, key, tmp_path) -> None:
    fitted = schedulers.fit("msdnet", predictions, key=key, calibration=0.5)
    fitted.save(tmp_path / "f.npz")
    again = schedulers.Frontier.load(tmp_path / "f.npz")
    one, two = (f.for_budget(2.5, confidence=0.9) for f in (fitted, again))
    np.testing.assert_array_equal(one.thresholds, two.thresholds)


def test_mistakes(predictions, key) -> None:
    fitted = schedulers.fit("msdnet", predictions, key=key)
    with pytest.raises(UserError, match="fit it with calibration"):
        fitted.for_budget(2.0, confidence=0.95)
    held = schedulers.fit("msdnet", predictions, key=key, calibration=0.5)
    with pytest.raises(UserError, match=r"--confidence=1.5 must be in \(0, 1\)"):
        held.for_budget(2.0, confidence=1.5)
    with pytest.raises(UserError, match=r"--max_drop=-0.1 must be in \[0, 1\)"):
        held.for_drop(-0.1, 0.95)
    with pytest.raises(UserError, match="calibration=1.0 of 1500"):
        schedulers.fit("msdnet", predictions, key=jax.random.key(0), calibration=1.0)
