"""Thresholds: who leaves where, and from shares to thresholds and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.schedulers.geometric import rho_for_cost
from eenet_jax.schedulers.thresholds import (
    cut_after,
    first_exit,
    geometric_shares,
    realise,
    shares_of,
    thresholds_from_shares,
)

INF = np.inf


def random_scores(num_exits=3, num_samples=40, seed=0) -> np.ndarray:
    """Scores with a few ties among them."""
    rng = np.random.default_rng(seed)
    return rng.random((num_exits, num_samples)).round(2).astype(np.float32)


def test_first_exit_docstring_example() -> None:
    scores = jnp.array([[0.9, 0.2], [0.1, 0.3]])
    exits = first_exit(scores, jnp.array([0.5, -jnp.inf]))
    assert exits.dtype == jnp.int32
    assert exits.tolist() == [0, 1]


def test_score_equal_to_the_threshold_leaves() -> None:
    scores = jnp.array([[0.5], [0.0]])
    assert first_exit(scores, jnp.array([0.5, -jnp.inf])).tolist() == [0]


def test_minus_inf_everywhere_is_the_first_exit() -> None:
    scores = jnp.asarray(random_scores()).at[0, 0].set(-jnp.inf)
    assert not first_exit(scores, jnp.full(3, -jnp.inf)).any()


@pytest.mark.parametrize("last", [INF, -INF])
def test_plus_inf_is_the_last_exit(last) -> None:
    thresholds = jnp.array([jnp.inf, jnp.inf, last])
    assert (first_exit(jnp.asarray(random_scores()), thresholds) == 2).all()


def test_first_exit_is_the_loop() -> None:
    scores, thresholds = random_scores(), np.array([0.8, 0.5, -INF], np.float32)
    wanted = []
    for sample in scores.T:
        k = 0
        while sample[k] < thresholds[k]:
            k += 1
        wanted.append(k)
    assert first_exit(jnp.asarray(scores), jnp.asarray(thresholds)).tolist() == wanted
    jitted = jax.jit(first_exit)(scores, thresholds)
    assert jitted.tolist() == wanted


def test_disagreeing_exits() -> None:
    with pytest.raises(ValueError, match="3 exits, 2 thresholds"):
        first_exit(jnp.zeros((3, 5)), jnp.zeros(2))


def test_geometric_shares() -> None:
    shares = geometric_shares(np.array([0.5, 1.0, 2.0]), 3)
    wanted = [[4 / 7, 2 / 7, 1 / 7], [1 / 3] * 3, [1 / 7, 2 / 7, 4 / 7]]
    np.testing.assert_allclose(shares, wanted, rtol=1e-12)


def test_extreme_rho_is_finite() -> None:
    shares = geometric_shares(np.exp(np.array([-50.0, 50.0])), 30)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares[[0, 1], [0, -1]], 1)


@pytest.mark.parametrize(
    "costs", [[1.0, 2.0], [1.0, 2.0, 4.0, 4.5], [0.0, 1e-3, 1.0], [1.0, 1.0, 5.0]]
)
def test_rho_hits_the_planned_cost(costs) -> None:
    costs = np.array(costs)
    wanted = np.linspace(costs[0], costs[-1], 52)[1:-1]
    rho = rho_for_cost(costs, wanted)
    planned = geometric_shares(rho, len(costs)) @ costs
    np.testing.assert_allclose(planned, wanted, atol=1e-6)
    assert (np.diff(rho) > 0).all()


def test_thresholds_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.3, 0.1], [0.0, 0.25, 1.0, 0.75]], np.float32)
    scores = np.concatenate([scores, np.zeros((1, 4), np.float32)])
    shares = np.array([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.0, 0.5, 0.5]])
    found = thresholds_from_shares(scores, shares)
    # Row 1: sample 0 leaves first; of {1, 2, 3} exit 2 takes 2 and 3.
    wanted = [[0.7, 0.5, -INF], [0.4, 0.875, -INF], [INF, 0.5, -INF]]
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-6)
    np.testing.assert_allclose(shares_of(scores, found), shares)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("share", "taken"), [(0.4, 0.2), (0.5, 0.8), (0.7, 0.8)])
def test_ties_are_taken_together_or_not_at_all(share, taken) -> None:
    scores = np.array([[0.9, 0.7, 0.7, 0.7, 0.1], [0, 0, 0, 0, 0]], np.float32)
    scores = np.repeat(scores, 2, axis=1)
    found = thresholds_from_shares(scores, np.array([[share, 1 - share]]))
    np.testing.assert_allclose(shares_of(scores, found), [[taken, 1 - taken]])
    same = np.ones_like(scores)
    found = thresholds_from_shares(same, np.array([[0.3, 0.7], [0.6, 0.4]]))
    assert found[:, 0].tolist() == [INF, -INF]


def test_share_0_takes_nobody() -> None:
    found = thresholds_from_shares(random_scores(), np.array([[0, 0, 1.0]]))
    assert found.tolist() == [[INF, INF, -INF]]


def test_share_1_takes_everybody() -> None:
    found = thresholds_from_shares(random_scores(), np.eye(3)[[0, 1]])
    assert (found[0, 0], found[1, 0], found[1, 1]) == (-INF, INF, -INF)


def test_shares_are_kept_where_scores_differ() -> None:
    rng = np.random.default_rng(3)
    scores = rng.permuted(np.tile(np.arange(50, dtype=np.float32), (4, 1)), axis=1)
    shares = rng.dirichlet(np.ones(4), 30)
    counts = np.floor(shares * 50 + 1e-6)[:, :-1]
    taken = 50 * shares_of(scores, thresholds_from_shares(scores, shares))
    np.testing.assert_allclose(taken[:, :-1], counts)


def test_an_exit_takes_its_share_to_half_a_tie() -> None:
    scores = random_scores().round(1)
    shares = np.random.default_rng(4).dirichlet(np.ones(3), 30)
    first = np.floor(shares[:, 0] * 40 + 1e-6) / 40
    taken = shares_of(scores, thresholds_from_shares(scores, shares))
    np.testing.assert_allclose(taken.sum(axis=1), 1)
    largest = np.unique(scores[0], return_counts=True)[1].max() / 40
    assert (np.abs(taken[:, 0] - first) <= largest / 2 + 1e-9).all()
    assert (np.abs(taken[:, 0] - first) > 0).any()


def test_scores_that_differ_by_rounding_are_taken_together() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    assert cut_after(np.array([high, low]), 1) == -INF
    threshold = cut_after(np.array([high, low, 0.4], np.float32), 1)
    assert threshold == np.float32((np.float64(low) + np.float32(0.4)) / 2)
    assert cut_after(np.array([], np.float32), 1) == INF


def test_realise_is_the_loop() -> None:
    scores = random_scores()
    values = np.random.default_rng(1).random((2, 3, 40))
    thresholds = np.random.default_rng(2).random((6, 3)).astype(np.float32)
    thresholds[:, -1] = -INF
    wanted = np.zeros((6, 2))
    for m, row in enumerate(thresholds):
        for n in range(40):
            k = next(k for k in range(3) if scores[k, n] >= row[k])
            wanted[m] += values[:, k, n] / 40
    np.testing.assert_allclose(realise(scores, thresholds, values), wanted)
    shares = shares_of(scores, thresholds)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
