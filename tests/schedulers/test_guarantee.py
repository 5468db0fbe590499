"""Guarantees: false alarms are as rare as said, and little of the budget is lost."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import maxprob_opt
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


def draw_drops(
    rng: np.random.Generator, shape: tuple[int, ...], mean: float, differing: float
) -> np.ndarray:
    """Draws losses of accuracy, -1, 0 or 1, with a mean and a share that is not 0."""
    lost, gained = (differing + mean) / 2, (differing - mean) / 2
    uniform = rng.random(shape)
    return np.where(uniform < lost, 1.0, np.where(uniform < lost + gained, -1.0, 0.0))


def test_false_alarms_are_rare() -> None:
    rng = np.random.default_rng(0)
    at_bound = (rng.random((400, 500)) < 0.6) & (rng.random((400, 500)) < 0.5)
    alarms = is_below(np.where(at_bound, 1.0, 0.25), 0.25 + 0.75 * 0.3, 0.95).sum()
    assert alarms <= 30  # 5 % of 400, and two standard deviations


@pytest.mark.parametrize(
    ("mean", "differing"), [(0.02, 0.03), (0.02, 0.3), (0.02, 0.02)]
)
def test_false_alarms_are_rare_for_drops(mean, differing) -> None:
    values = (1 + draw_drops(np.random.default_rng(1), (400, 500), mean, differing)) / 2
    assert is_below(values, (1 + mean) / 2, 0.95).sum() <= 30


def test_power_is_close_to_normal() -> None:
    rng = np.random.default_rng(0)
    gap = 1.645 * 0.5 / np.sqrt(2000)  # where a normal bound is right half of the time
    values = 1.0 * (rng.random((400, 2000)) < 0.5)
    assert is_below(values, 0.5 + gap, 0.95).mean() > 0.43
    assert is_below(values, 0.5 + 2 * gap, 0.95).mean() > 0.93


def test_rare_drops_have_power() -> None:
    rng = np.random.default_rng(0)
    standard_error = np.sqrt(0.008 / 5000)
    values = (1 + draw_drops(rng, (200, 5000), 0.005 - 2.9 * standard_error, 0.008)) / 2
    assert is_below(values, 1.005 / 2, 0.95).mean() > 0.75


@pytest.mark.slow
def test_fixed_sequence_errs_rarely_and_gets_close() -> None:
    """The 60 candidates are nested, as those of a path are."""
    rng = np.random.default_rng(0)
    means = np.linspace(0.2, 0.5, 61)[1:]
    furthest = np.empty(300)
    for i in range(300):
        uniform = rng.random(500)
        place = last_certified((1.0 * (uniform < mean) for mean in means), 0.4, 0.95)
        furthest[i] = means[place]
    assert (furthest > 0.4 + 1e-9).sum() <= 15 + 8  # 5 %, and two standard deviations
    normal = 0.4 - 1.645 * np.sqrt(0.24 / 500)
    assert furthest.mean() > normal - 0.01


def test_certified_is_monotone_in_what_is_asked() -> None:
    values = 1.0 * (np.random.default_rng(0).random((50, 1000)) < 0.3)
    easy, hard = is_below(values, 0.4, 0.9), is_below(values, 0.31, 0.9)
    assert easy.all() and not hard.all()
    assert is_below(values, 0.34, 0.8).sum() > is_below(values, 0.34, 0.999).sum()


@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_few_samples_certify_nothing_hard(num_samples) -> None:
    assert not is_below(np.zeros(num_samples), 0.5, 0.95)
    assert not is_below(np.ones(num_samples), 0.5, 0.95)
    assert last_certified([np.zeros(num_samples)] * 2, 0.3, 0.95) == -1


def test_constant_values() -> None:
    assert is_below(np.full(200, 0.2), 0.5, 0.95)
    assert not is_below(np.full(200, 0.5), 0.5, 0.95)
    assert not is_below(np.full(200, 0.8), 0.5, 0.95)
    assert is_below(
        np.full(5000, 0.5), 1.005 / 2, 0.95
    )  # never wrong where full is right
    assert not is_below(np.full(300, 0.5), 1.005 / 2, 0.95)  # 0.995^300 > 5 %


def test_bounds_outside_the_range_need_no_test() -> None:
    assert is_below(np.ones(3), 1.0, 0.95)
    assert not is_below(np.zeros(3), 0.0, 0.95)
    assert is_below(np.ones((2, 3)), 1.0, 0.95).tolist() == [True, True]


def test_testing_stops_at_the_first_failure() -> None:
    zeros, ones = np.zeros(200), np.ones(200)
    assert last_certified([zeros, zeros, ones, zeros], 0.5, 0.95) == 1
    assert last_certified([ones, zeros], 0.5, 0.95) == -1
    assert last_certified([zeros] * 70, 0.5, 0.95) == 69
    assert last_certified([*[zeros] * 65, ones, zeros], 0.5, 0.95) == 64
    assert last_certified([], 0.5, 0.95) == -1


@pytest.mark.parametrize("name", ["msdnet", "maxprob_opt"])
def test_certified_budget_is_safer_and_mostly_spent(predictions, name, key) -> None:
    fitted = schedulers.fit(name, predictions, key=key, calibration=0.5)
    held = fitted.held
    assert held.exits.shape == (len(fitted.member), 752)
    for budget in (1.75, 2.5, 3.25):
        sure = fitted.for_budget(budget, confidence=0.95)
        exits = np.asarray(sure.decide(predictions.test.logits))
        mean = predictions.costs[exits].mean()
        assert 0.85 * budget < mean <= 1.02 * budget


def test_rows_that_fit_never_calibrate(predictions, key, monkeypatch) -> None:
    seen = []

    def fit(given, **kwargs):
        seen.append(given.val)
        return maxprob_opt.fit(given, **kwargs)

    def calibrate(self, split, costs):
        seen.append(split)
        return self

    monkeypatch.setitem(schedulers.SCHEDULERS, "maxprob_opt", fit)
    monkeypatch.setattr(schedulers.Frontier, "calibrate", calibrate)
    schedulers.fit("maxprob_opt", predictions, key=key, calibration=0.4)
    fitted_on, held = ({tuple(row) for row in split.logits[0]} for split in seen)
    assert len(held) == pytest.approx(600, abs=16)
    assert len(fitted_on) + len(held) == 1500
    assert not fitted_on & held


def test_candidates_do_not_depend_on_held_out_rows(predictions, key) -> None:
    frontier = schedulers.fit("maxprob_opt", predictions, key=key)
    one, two = (
        frontier.calibrate(part, predictions)
        for part in (predictions.test, predictions.val)
    )
    np.testing.assert_array_equal(one.path, two.path)
    np.testing.assert_array_equal(one.thresholds, two.thresholds)


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
