"""Optimised thresholds: against all threshold pairs, the hull, and interpolation."""

import itertools

import numpy as np
import pytest

from eenet_jax.schedulers.maxprob_opt import (
    _ascend,
    interpolate,
    optimise_shares,
    upper_hull,
)
from eenet_jax.schedulers.thresholds import realise

K, N = 3, 12
COSTS = np.array([1.0, 2.0, 4.0])
PRICES = np.array([0.0, 0.03, 0.1, 0.3, 1.0])


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties ``[K, N]``, and correct and cost ``[2, K, N]``."""
    rng = np.random.default_rng(seed)
    scores = rng.random((K, N)).astype(np.float32).round(1 if seed % 2 else 6)
    correct = rng.random((K, N)) < np.array([[0.4], [0.6], [0.8]])
    return scores, np.stack([correct, np.broadcast_to(COSTS[:, None], (K, N))])


def all_means(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Accuracy and cost of every pair of thresholds, by brute force."""
    cuts = (np.append(np.unique(scores[k]), np.inf) for k in range(K - 1))
    rows = np.array([(a, b, -np.inf) for a, b in itertools.product(*cuts)])
    return realise(scores, rows.astype(np.float32), values)


def found_means(scores: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Accuracy and cost of what the search finds at each of ``PRICES``."""
    gains = values[0][None] - PRICES[:, None, None] * values[1][None]
    thresholds = np.asarray(_ascend(scores, gains.astype(np.float32)))
    return realise(scores, thresholds, values)


def test_search_reaches_the_brute_force_optimum() -> None:
    gaps = []
    for seed in range(20):
        scores, values = case(seed)
        best = all_means(scores, values) @ np.stack([np.ones(5), -PRICES])
        found = found_means(scores, values)
        gap = best.max(axis=0) - (found[:, 0] - PRICES * found[:, 1])
        assert (gap > -1e-6).all()  # brute force is not beaten
        gaps.append(gap)
    # One exit at a time may end in a local optimum, but seldom and not far below.
    assert np.mean(np.array(gaps) < 1e-6) > 0.9
    assert np.max(gaps) < 1.5 / N


def test_price_0_is_the_most_accurate_and_a_high_price_the_cheapest() -> None:
    scores, values = case(4)
    gains = values[0][None] - np.array([0, 100.0])[:, None, None] * values[1][None]
    means = realise(scores, np.asarray(_ascend(scores, gains.astype("f4"))), values)
    assert means[0, 0] == pytest.approx(all_means(scores, values)[:, 0].max())
    assert means[1, 1] == COSTS[0]


def test_cost_falls_as_the_price_rises() -> None:
    scores, values = case(2)
    assert (np.diff(found_means(scores, values)[:, 1]) <= 1e-9).all()


def test_an_exit_that_only_harms_is_left_out() -> None:
    scores, values = case(6)
    values[0, 1] = 0  # exit 2 is always wrong, exit 3 always right
    values[0, 2] = 1
    gains = values[0][None] - 0.01 * values[1][None]
    assert np.isposinf(np.asarray(_ascend(scores, gains.astype("f4")))[0, 1])


def test_hull_by_hand() -> None:
    cost = np.array([3.0, 1.0, 2.0, 2.0, 4.0, 5.0, 1.0])
    accuracy = np.array([10, 5, 8, 6, 12, 11, 4]) / 16
    # (1, 5), (2, 8), (4, 12) sixteenths; (3, 10) is on the line of the last two.
    assert upper_hull(cost, accuracy).tolist() == [1, 2, 4]


def test_hull_of_any_order_is_concave() -> None:
    rng = np.random.default_rng(0)
    cost, accuracy = rng.random((2, 80))
    hull = upper_hull(cost, accuracy)
    order = rng.permutation(80)
    np.testing.assert_array_equal(order[upper_hull(cost[order], accuracy[order])], hull)
    slopes = np.diff(accuracy[hull]) / np.diff(cost[hull])
    assert (slopes > 0).all() and (np.diff(slopes) < 0).all()
    assert accuracy[hull[-1]] == accuracy.max()
    line = np.interp(cost, cost[hull], accuracy[hull])
    inside = cost >= cost[hull[0]]
    assert (accuracy[inside] <= line[inside] + 1e-12).all()


def test_one_point_is_its_own_hull() -> None:
    assert upper_hull(np.array([1.0, 1.0]), np.array([0.5, 0.5])).tolist() == [0]


def test_interpolation_plans_rising_costs() -> None:
    corners = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.4, 0.2, 0.4], [0, 0, 1.0]])
    rows = interpolate(corners, COSTS, 50)
    planned = rows[:50] @ COSTS
    np.testing.assert_allclose(planned, np.linspace(1, 4, 50))
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert (rows >= 0).all()
    np.testing.assert_array_equal(rows[50:], corners)


def test_shares_begin_with_the_first_exit() -> None:
    scores, values = case(8)
    shares = optimise_shares(scores, values, COSTS)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert shares[0].tolist() == [1, 0, 0]


def test_equal_costs_are_no_division_by_0() -> None:
    scores, values = case(3)
    values[1] = 2.0
    shares = optimise_shares(scores, values, np.full(K, 2.0))
    assert np.isfinite(shares).all()
