"""PABEE: the run of equal answers decides."""

import numpy as np

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers.policy import Policy

ANSWERS = np.array([[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]])  # [K, N]


def make_split() -> Split:
    return Split((5 * np.eye(2)[ANSWERS]).astype(np.float32), ANSWERS[-1].astype(int))


def test_score_counts_equal_answers_in_a_row() -> None:
    policy = Policy("patience", {}, np.array([2, 2, 2, -np.inf], np.float32))
    scores = policy.scores(make_split().logits)
    expected = [[1, 1, 1, 1], [2, 1, 2, 2], [3, 2, 1, 3], [4, 1, 2, 4]]
    np.testing.assert_array_equal(scores, expected)
    np.testing.assert_array_equal(policy.decide(make_split().logits), [1, 2, 1, 1])


def test_patience_is_the_largest_that_the_budget_affords(key) -> None:
    split = make_split()
    costs = np.array([1.0, 2.0, 3.0, 4.0])
    fitted = schedulers.fit("pabee", Predictions(split, split, costs), key=key)
    assert set(fitted.thresholds[:, 0]) == {-np.inf, 1, 2, 3, 4, np.inf}
    assert fitted.val_cost.min() == 1 and fitted.val_cost.max() == 4
    exits = np.asarray(fitted.for_budget(10).decide(split.logits))
    assert (split.labels == ANSWERS[exits, np.arange(4)]).all()
