"""Replay of a policy: the same as a plain loop over samples and exits."""

import numpy as np
import pytest

from eenet_jax import runtime
from eenet_jax.errors import UserError
from eenet_jax.predictions import Split
from eenet_jax.schedulers import Policy

COSTS = np.array([1.0, 2.0, 4.5])
POLICY = Policy("max_prob", {}, np.array([0.7, 0.6, -np.inf], np.float32))


@pytest.fixture(scope="module")
def split() -> Split:
    """Three exits, 60 samples, four classes."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(3, 60, 4))
    return Split(logits.astype(np.float32), rng.integers(0, 4, 60).astype(np.int32))


def test_same_as_the_loop(split) -> None:
    decisions = runtime.simulate(POLICY, split, COSTS)
    for n in range(60):
        for k in range(3):
            logits = split.logits[k, n].astype(np.float64)
            probs = np.exp(logits) / np.exp(logits).sum()
            if k == 2 or probs.max() >= POLICY.thresholds[k]:
                break
        assert decisions.exit_index[n] == k
        assert decisions.labels[n] == logits.argmax()
        assert decisions.scores[k, n] == pytest.approx(probs.max(), rel=1e-5)
        assert decisions.cost[n] == COSTS[k]
    assert len(np.unique(decisions.exit_index)) == 3


def test_means(split) -> None:
    decisions = runtime.simulate(POLICY, split, COSTS)
    counts = np.bincount(decisions.exit_index, minlength=3)
    assert decisions.mean_cost == pytest.approx(counts @ COSTS / 60, rel=1e-12)
    np.testing.assert_allclose(decisions.exit_fraction, counts / 60)
    right = sum(decisions.labels[n] == split.labels[n] for n in range(60))
    assert decisions.accuracy(split.labels) == pytest.approx(right / 60)


def test_exits_that_nobody_takes_count_0(split) -> None:
    thresholds = np.array([-np.inf, 0, -np.inf], np.float32)
    decisions = runtime.simulate(Policy("max_prob", {}, thresholds), split, COSTS)
    assert decisions.exit_fraction.tolist() == [1, 0, 0]
    assert decisions.mean_cost == 1
    assert decisions.accuracy(split.labels) == split.correct[0].mean()


def test_types(split) -> None:
    decisions = runtime.simulate(POLICY, split, COSTS)
    assert decisions.exit_index.dtype == decisions.labels.dtype == np.int32
    assert decisions.cost.dtype == np.float64
    assert decisions.scores.shape == (3, 60)


@pytest.mark.parametrize(
    "thresholds, costs", [(2, 3), (3, 2), (4, 4)], ids=["policy", "costs", "both"]
)
def test_disagreeing_exits(split, thresholds, costs) -> None:
    policy = Policy("max_prob", {}, np.zeros(thresholds, np.float32))
    message = (
        f"the policy has {thresholds} exits, the predictions 3 and the costs {costs}"
    )
    with pytest.raises(UserError, match=message):
        runtime.simulate(policy, split, np.ones(costs))


@pytest.mark.parametrize(("scorer", "third"), [("max_prob", 3.9), ("patience", 4.5)])
def test_heads_that_are_not_run_are_not_charged(split, scorer, third) -> None:
    heads = np.array([0.3, 0.6, 0.5])
    thresholds = np.array([0.7 if scorer == "max_prob" else 5, np.inf, -np.inf])
    policy = Policy(scorer, {}, thresholds.astype(np.float32))
    decisions = runtime.simulate(policy, split, COSTS, heads)
    assert set(decisions.exit_index) <= {0, 2}
    expected = np.where(decisions.exit_index == 2, third, COSTS[0])
    np.testing.assert_allclose(decisions.cost, expected)
