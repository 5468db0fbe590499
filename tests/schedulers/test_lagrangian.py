"""Optimal stopping: the advantages, their features, and what they are worth."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split, load_predictions
from eenet_jax.runtime.simulate import simulate
from eenet_jax.schedulers import confidence, lagrangian

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


def test_policy_scores_are_the_fitted_advantages(predictions, key) -> None:
    fitted = lagrangian.fit(predictions, budgets=None, key=key, recipe=QUICK)
    policy = fitted.policy(len(fitted.member) - 1)
    logits = predictions.test.logits[:, :50]
    shown = confidence.all_features(logits)
    by_hand = confidence.advantage(policy.params, 0, shown.x[0], shown.answers[0])
    scores = policy.scores(logits)
    np.testing.assert_allclose(scores[0], by_hand, atol=1e-5)
    assert scores.shape == (2, 50) and not scores[1].any()


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


def test_budget_is_kept_and_spent(predictions, key) -> None:
    fitted = lagrangian.fit(predictions, budgets=None, key=key, recipe=QUICK)
    costs = [
        simulate(fitted.for_budget(b), predictions.val, predictions.costs).mean_cost
        for b in (1.0, 1.2, 1.4, 1.6)
    ]
    assert all(c <= b + 1e-9 for c, b in zip(costs, (1.0, 1.2, 1.4, 1.6), strict=True))
    assert costs == sorted(costs) and costs[2] > 1.3


@pytest.mark.parametrize("num_classes, num_samples", [(2, 50), (1000, 60)])
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
    points = {
        "digits_k3": [0.0078, 0.0116, 0.0145, 0.0179],
        "fmnist_k3": [0.0214, 0.0368, 0.0481, 0.0591],
    }
    for name, budgets in points.items():
        given = load_predictions(shared / "fixtures" / "predictions" / f"{name}.npz")
        accuracy = {}
        for scheduler in ("lagrangian", "maxprob_opt"):
            fitted = schedulers.fit(scheduler, given, key=jax.random.key(0))
            runs = [
                simulate(fitted.for_budget(b), given.test, given.costs) for b in budgets
            ]
            accuracy[scheduler] = np.mean([r.accuracy(given.test.labels) for r in runs])
        assert accuracy["lagrangian"] > accuracy["maxprob_opt"] + 0.003, name
