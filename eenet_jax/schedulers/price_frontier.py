"""The frontier between policies that are each best at a price of cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import frontier_of, outcome_values
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.thresholds import TIE, realise

GAP = 0.02  # of the cost range, which neighbours may differ by
LEVELS = 41  # thresholds tried for each member
BETWEEN = 16  # of them kept, between its neighbours' costs


def price_frontier(
    shared: dict[str, Any],
    params: dict[str, Any],
    prices: np.ndarray,
    crossed: np.ndarray,
    rows: np.ndarray,
    predictions: Predictions,
) -> Frontier:
    """Turns advantages for prices into candidates for all budgets.

    Where the costs of neighbouring prices are far apart, which is so where no price
    makes the costs between worth while, means of their advantages lead over from one to
    the other. Thresholds around 0 reach the costs that are left.

    How accurate candidates are follows from the prices: each is the slope of accuracy
    over cost where its policy is best. Only the level is measured, on samples that a
    policy was not fitted to. Measured one by one, candidates that differ in few samples
    would be ranked by chance.

    Args:
      shared: The scorer's parameters that do not depend on the price.
      params: Those that do, leaves ``[L, K-1, ...]``; advantages are linear in them.
      prices: In accuracy per unit of cost, rising, ``[L]``.
      crossed: Advantages of the calibration samples, fitted without them, for some of
        the prices, ``[L', K-1, N]``.
      rows: Which prices, ``[L']``.
      predictions: The validation part calibrates.
    """
    split, costs = predictions.val, predictions.costs
    values = outcome_values(split, costs)
    at_zero = same_thresholds(np.zeros(1), len(costs))
    members = [
        {name: leaf[m] for name, leaf in params.items()} for m in range(len(prices))
    ]

    def score(member):
        return score_split(
            Policy("lagrangian", {**shared, **member}, at_zero[0]), split
        )

    scores = [score(member) for member in members]
    spent = np.array([realise(score, at_zero, values)[0, 1] for score in scores])

    reached = np.maximum.accumulate(spent[::-1])  # by falling price
    slopes = (prices[::-1][1:] + prices[::-1][:-1]) / 2
    rise = np.concatenate([[0.0], np.cumsum(slopes * np.diff(reached))])
    honest = [np.concatenate([a, np.zeros_like(a[:1])]) for a in crossed]
    measured = [realise(a, at_zero, values)[0, 0] for a in honest]
    rise = np.clip(rise + np.mean(measured - rise[::-1][rows]), 0.0, 1.0)
    # Beyond what any price pays for, more and more samples just go on to the end.
    reached = np.append(reached, costs[-1])
    rise = np.append(rise, split.correct[-1].mean())

    members = _lead_over(members, spent, costs)
    scores = [score(member) for member in members]
    cuts, means = [], []
    for m, chosen in enumerate(thresholds_between(scores, [values] * len(scores), 0.0)):
        cost = realise(scores[m], chosen, values)[:, 1]
        cuts.append(chosen)
        means.append(np.stack([np.interp(cost, reached, rise), cost], axis=1))
    params = {name: np.stack([member[name] for member in members]) for name in params}
    return frontier_of("lagrangian", shared, params, cuts, means, predictions)


def thresholds_between(
    scores: Sequence[np.ndarray], values: Sequence[np.ndarray], level: float
) -> list[np.ndarray]:
    """Chooses thresholds for members so that every cost between theirs is reached.

    Args:
      scores: Of each member ``[K, N]``; the members' costs fall.
      values: Of each member, see ``outcome_values``.
      level: The threshold that the members were made for.

    Returns:
      For each member, thresholds that are one level at all exits but the last,
      ``[M, K]``, the given level or one next to it among them.
    """
    costs = values[0][1].mean(axis=1)
    clear = [_clear_levels(score) for score in scores]
    tables = [
        _levels(score, rising, of_member, level)
        for score, rising, of_member in zip(scores, clear, values, strict=True)
    ]
    spent = [np.interp(level, levels, cost) for levels, cost in tables]
    ends = np.concatenate([[costs[-1]], spent, [costs[0]]])
    cuts = []
    for m, (levels, cost) in enumerate(tables):
        wanted = np.linspace(*np.sort(ends[[m, m + 2]]), BETWEEN)
        # Cost rises with the threshold; np.interp wants it strictly so.
        rising = np.maximum.accumulate(cost) + 1e-9 * costs[-1] * np.arange(len(cost))
        chosen = np.unique(np.append(np.interp(wanted, rising, levels), level))
        cuts.append(same_thresholds(np.unique(_nearest(clear[m], chosen)), len(costs)))
    return cuts


def same_thresholds(levels: np.ndarray, num_exits: int) -> np.ndarray:
    """Returns thresholds that are one level at all exits but the last, ``[M, K]``."""
    rows = np.repeat(levels[:, None], num_exits, axis=1).astype(np.float32)
    rows[:, -1] = -np.inf
    return rows


def _lead_over(
    members: Sequence[dict[str, np.ndarray]], spent: np.ndarray, costs: np.ndarray
) -> list[dict[str, np.ndarray]]:
    """Inserts means of neighbours, evenly, where their costs are far apart.

    Args:
      members: Parameters for each price.
      spent: Mean cost at threshold 0, ``[L]``.
      costs: ``[K]``.
    """
    steps = GAP * max(costs[-1] - costs[0], 1e-12 * costs[-1])
    counts = np.floor(np.abs(np.diff(spent)) / steps).astype(int)
    led = [members[0]]
    for m, count in enumerate(counts):
        one, other = members[m], members[m + 1]
        for t in np.linspace(0, 1, count + 2)[1:].astype(np.float32):
            led.append({name: (1 - t) * one[name] + t * other[name] for name in one})
    return led


def _clear_levels(scores: np.ndarray) -> np.ndarray:
    """Returns thresholds that no score is near, between all that differ, rising.

    Scores that are equal but for rounding must not be told apart.
    """
    rising = np.unique(scores[:-1].astype(np.float64))
    rising = rising[np.isfinite(rising)]
    if not len(rising):  # no exit is ever asked
        return np.zeros(1)
    room = np.diff(rising) > 4 * TIE * np.maximum(1.0, np.abs(rising[1:]))
    middle = ((rising[1:] + rising[:-1]) / 2)[room]
    return np.concatenate([rising[:1] - 1.0, middle, rising[-1:] + 1.0])


def _nearest(rising: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns for each value wanted the nearest of rising ones."""
    above = np.clip(np.searchsorted(rising, wanted), 1, len(rising) - 1)
    low, high = rising[above - 1], rising[above]
    return np.where(wanted - low < high - wanted, low, high)


def _levels(
    scores: np.ndarray, clear: np.ndarray, values: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns thresholds, rising, and the mean cost that each leads to."""
    best = np.maximum.accumulate(scores[:-1], axis=0)  # what decides up to each exit
    best = best[np.isfinite(best)] if np.isfinite(best).any() else np.zeros(1)
    levels = np.quantile(best, np.linspace(0, 1, LEVELS))
    levels = np.unique(_nearest(clear, np.append(levels, level)))
    rows = same_thresholds(levels, len(scores))
    return levels, realise(scores, rows, values)[:, 1]
