"""Optimal stopping: the advantages, their features, and what they are worth."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split, load_predictions
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import confidence, gates, lagrangian
from eenet_jax.schedulers.price_frontier import GAP, price_frontier

QUICK_COMPILES = True  # see conftest.py

QUICK = lagrangian.Recipe(
    prices=8, units=16, folds=3, ridges=(10.0, 100.0), steps=40, batch_size=128
)


def misleading(num_samples: int, seed: int) -> Split:
    """Two exits; the first is sure of classes 0 and 1 alike, but right about 1 only."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num_samples)
    said = np.where((labels == 0) & (rng.random(num_samples) < 0.8), 2, labels)
    said = np.where(labels == 2, rng.choice([0, 2], num_samples), said)
    logits = rng.normal(scale=0.5, size=(2, num_samples, 3))
    logits[0, np.arange(num_samples), said] += 4
    logits[1, np.arange(num_samples), labels] += 4
    return Split(logits.astype(np.float32), labels.astype(np.int32))


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    costs = np.array([1.0, 2.0])
    return Predictions(misleading(800, 0), misleading(2000, 1), costs)


def test_features_by_hand() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32)
    trail = confidence.init_trail(1, 2, 3)
    first, answer, trail = confidence.features(0, np.log(probs[:1]), trail)
    assert answer[0] == 0
    entropy = 1 + np.sum(probs[0] * np.log(probs[0])) / np.log(3)
    own = [np.log(0.7 / 0.3) / 4, 0.7, entropy, 0.5, np.log(0.2) / 4, np.log(0.1) / 4]
    np.testing.assert_allclose(first[0], [*own, 0, 0, 0, 0], rtol=1e-4)
    second, answer, _ = confidence.features(1, np.log(probs[1:]), trail)
    assert answer[0] == 1
    shared = [0.0, own[0], own[2], np.log(0.2) / 4]  # disagrees; gave class 1 0.2
    np.testing.assert_allclose(second[0, 6:], shared, rtol=1e-4)


@pytest.mark.slow
def test_policy_scores_are_the_fitted_advantages(predictions, key) -> None:
    fitted = lagrangian.fit(predictions, budgets=None, key=key, recipe=QUICK)
    policy = fitted.policy(len(fitted.member) - 1)
    logits = predictions.test.logits[:, :50]
    shown = confidence.all_features(logits)
    by_hand = confidence.advantage(policy.params, 0, shown.x[0], shown.answers[0])
    scores = policy.scores(logits)
    np.testing.assert_allclose(scores[0], by_hand, atol=1e-5)
    assert scores.shape == (2, 50) and not scores[1].any()


@pytest.mark.slow
def test_learns_which_answers_mislead(predictions, key) -> None:
    fitted = schedulers.fit("lagrangian", predictions, key=key)
    plain = schedulers.fit("maxprob_opt", predictions, key=key)
    ours, theirs = (
        simulate(f.for_budget(1.5), predictions.test, predictions.costs).accuracy(
            predictions.test.labels
        )
        for f in (fitted, plain)
    )
    assert ours > theirs + 0.1


@pytest.mark.slow
def test_budget_is_kept_and_spent(predictions, key) -> None:
    fitted = lagrangian.fit(predictions, budgets=None, key=key, recipe=QUICK)
    costs = [
        simulate(fitted.for_budget(b), predictions.val, predictions.costs).mean_cost
        for b in (1.0, 1.2, 1.4, 1.6)
    ]
    assert all(c <= b + 1e-9 for c, b in zip(costs, (1.0, 1.2, 1.4, 1.6), strict=True))
    assert costs == sorted(costs) and costs[2] > 1.3


def test_gates_start_at_the_best_thresholds() -> None:
    odds = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]], np.float32)
    correct = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
    prices = np.array([0.5, 3.0, 0.0])
    costs = np.array([0.0, 0.5, 1.0])
    stop = correct[..., None] - prices * costs[:, None, None]
    shapes = {
        "weights": np.ones((3, 2, 5)),
        "bias": np.ones((3, 2, 4)),
        "slope": np.ones((3, 2, 4)),
    }
    start = gates.log_odds_start(shapes, odds, stop, np.ones(4))
    assert not start["bias"].any() and not start["slope"].any()
    assert not start["weights"][..., 2:].any()
    thresholds = -start["weights"][..., 0] / start["weights"][..., 1]
    # Price 0.5: the first two leave first (a gain of 0.5 each), nobody at exit 2, whose
    # answers are wrong. Price 3: going on never pays. Price 0: nothing is gained.
    assert thresholds[0].tolist() == [1.5, 4.0]
    assert thresholds[1, 0] < 0
    assert thresholds[2].tolist() == [4.0, 4.0]


def test_weights_say_which_samples_start_the_gates() -> None:
    odds = np.array([[3.0, 2.0, 1.0, 0.0]], np.float32)
    stop = np.stack([np.array([[1.0, -1, 5, -9]]).T, np.zeros((4, 1))])
    shapes = {name: np.ones((1, 1, 2)) for name in ("weights", "bias", "slope")}

    def threshold(weights):
        found = gates.log_odds_start(shapes, odds, stop, np.array(weights))["weights"]
        return -found[0, 0, 0] / found[0, 0, 1]

    assert threshold([1.0, 1, 1, 1]) == pytest.approx(0.5)
    assert threshold([1.0, 1, 0, 1]) == pytest.approx(2.5)


def test_gates_do_not_start_between_equal_odds() -> None:
    stop = np.zeros((2, 8, 1))
    stop[0, :, 0] = [1, 1, 1, 1, -1.5, -1.5, -1.5, -1.5]
    shapes = {name: np.ones((1, 1, 2)) for name in ("weights", "bias", "slope")}
    found = gates.log_odds_start(shapes, np.ones((1, 8)), stop, np.ones(8))["weights"]
    assert -found[0, 0, 0] / found[0, 0, 1] > 1  # taking them all loses


@pytest.mark.slow
def test_candidates_lead_over_between_far_apart_costs() -> None:
    """Two prices, at which all go on and all stop."""
    split = misleading(200, 2)
    given = Predictions(split, split, np.array([1.0, 2.0]))
    x = confidence.all_features(split.logits).x
    units = np.zeros((1, x.shape[-1], 1), np.float32)
    shared = confidence.design_params(x, units, units[:, 0])
    weights = np.zeros((2, 1, 2 + x.shape[-1]), np.float32)
    weights[:, 0, 0] = [-9.0, 9.0]
    weights[:, 0, 1] = 1.0
    classes = np.zeros((2, 1, 3), np.float32)
    params = {"weights": weights, "bias": classes, "slope": classes}
    crossed = np.stack([np.full((1, 200), -9.0), np.full((1, 200), 9.0)])
    prices, rows = np.array([0.1, 0.2]), np.arange(2)
    fitted = price_frontier(shared, params, prices, crossed, rows, given)
    intercepts = np.linspace(-9, 9, 2 + round(1 / GAP))
    np.testing.assert_allclose(fitted.params["weights"][:, 0, 0], intercepts, atol=1e-5)
    right = split.correct.mean(axis=1)
    # The mean price, 0.15, is the slope; the mean of the two levels is measured.
    honest = fitted.val_accuracy[2:][fitted.val_cost[2:] < 2]  # some leave first
    assert honest.min() == pytest.approx(right.mean() - 0.075, abs=1e-6)
    assert right.mean() + 0.05 < honest.max() <= right.mean() + 0.075


@pytest.mark.slow
def test_no_budget_is_spent_on_a_worse_exit(key) -> None:
    rng = np.random.default_rng(0)

    def part(num_samples):
        labels = rng.integers(0, 5, num_samples).astype(np.int32)
        logits = rng.normal(size=(3, num_samples, 5))
        logits[:, np.arange(num_samples), labels] += np.array([[1.0], [3.0], [0.3]])
        return Split(logits.astype(np.float32), labels)

    given = Predictions(part(800), part(2000), np.array([1.0, 2.0, 4.0]))
    fitted = lagrangian.fit(given, budgets=None, key=key, recipe=QUICK)
    second = given.test.correct[1].mean()
    for budget in (2.5, 4.0, 40.0):
        run = simulate(fitted.for_budget(budget), given.test, given.costs)
        assert run.accuracy(given.test.labels) > second - 0.02


@pytest.mark.slow
def test_budgets_are_kept_with_equal_scores(key) -> None:
    split = misleading(500, 3)
    logits = 2 * np.round(np.concatenate([split.logits, split.logits[-1:]]) / 2)
    split = Split(logits, split.labels)
    given = Predictions(split, split, np.array([1.0, 2.0, 3.0]))
    fitted = lagrangian.fit(given, budgets=None, key=key, recipe=QUICK)
    for budget in np.linspace(1, 3, 40):
        run = simulate(fitted.for_budget(budget), split, given.costs)
        assert run.mean_cost <= budget * (1 + 1e-9)


@pytest.mark.parametrize(
    "num_classes, num_samples",
    [(2, 50), (1000, 60)],
)
@pytest.mark.slow
def test_few_samples_and_many_classes(num_classes, num_samples, key) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, num_samples, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, num_samples).astype(np.int32)
    split = Split(logits, labels)
    small = Predictions(split, split, np.array([1.0, 2.0]))
    fitted = lagrangian.fit(small, budgets=None, key=key, recipe=QUICK)
    assert np.isfinite(fitted.val_cost).all()
    assert all(np.isfinite(leaf).all() for leaf in fitted.params.values())


@pytest.mark.slow
def test_beats_thresholds_on_real_predictions(shared) -> None:
    given = load_predictions(shared / "fixtures" / "predictions" / "digits_k3.npz")
    accuracy = {}
    for scheduler in ("lagrangian", "maxprob_opt"):
        fitted = schedulers.fit(scheduler, given, key=jax.random.key(0))
        runs = [
            simulate(fitted.for_budget(budget), given.test, given.costs)
            for budget in (0.0078, 0.0116, 0.0145, 0.0179)
        ]
        accuracy[scheduler] = np.mean([r.accuracy(given.test.labels) for r in runs])
    assert accuracy["lagrangian"] > accuracy["maxprob_opt"] + 0.003
