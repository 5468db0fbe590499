"""The clairvoyant bound: by hand, and above what policies reach."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers.bounds import clairvoyant


def split_of(correct: list[list[int]]) -> Split:
    """Two classes; an exit answers 0, the truth, where ``correct`` is 1."""
    correct = np.array(correct, np.float32)
    labels = np.zeros(correct.shape[1], np.int32)
    return Split(np.stack([correct, 1 - correct], axis=-1), labels)


HAND = split_of([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [1, 1, 1, 0, 0]])
COSTS = np.array([1.0, 2.0, 6.0])


def test_hand_case() -> None:
    # Two are right at exit 1; one more costs 1 / 5 extra, the next 5 / 5 extra.
    budgets = np.array([1.0, 1.19, 1.2, 2.19, 2.2, 6.0, 100.0])
    wanted = [0.4, 0.4, 0.6, 0.6, 0.8, 0.8, 0.8]
    np.testing.assert_allclose(clairvoyant(HAND, COSTS, budgets), wanted)


def test_nan_below_the_first_cost() -> None:
    found = clairvoyant(HAND, COSTS, np.array([0.99, 1.0]))
    assert np.isnan(found[0]) and found[1] == 0.4


def test_nobody_is_ever_right() -> None:
    nobody = split_of([[0, 0], [0, 0]])
    assert clairvoyant(nobody, np.array([1.0, 2.0]), np.array([1.5])) == [0]


def test_does_not_fall_with_the_budget() -> None:
    rng = np.random.default_rng(0)
    split = split_of(rng.integers(0, 2, (4, 100)))
    costs = np.array([0.5, 1.0, 1.1, 4.0])
    found = clairvoyant(split, costs, np.linspace(0.5, 4, 300))
    assert (np.diff(found) >= 0).all()
    assert found[-1] == split.correct.any(axis=0).mean()


@pytest.mark.parametrize("name", ["msdnet", "maxprob_opt"])
def test_no_policy_is_above_it(name) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 200).astype(np.int32)
    logits = rng.normal(size=(3, 200, 5)).astype(np.float32)
    logits[:, np.arange(200), labels] += np.array([0.5, 1.5, 2.5])[:, None]
    split = Split(logits, labels)
    predictions = Predictions(split, split, COSTS)
    frontier = schedulers.fit(name, predictions, key=jax.random.key(0))
    for budget in np.linspace(1, 6, 12):
        decisions = simulate(frontier.for_budget(budget), split, COSTS)
        bound = clairvoyant(split, COSTS, np.array([decisions.mean_cost]))[0]
        assert decisions.accuracy(labels) <= bound + 1e-12
