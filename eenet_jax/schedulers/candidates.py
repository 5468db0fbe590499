"""Candidate policies: from what a scheduler fitted to its frontier."""

import dataclasses
from typing import Any

import numpy as np

from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import thresholds as thresholds_lib
from eenet_jax.schedulers.budget import FIRST, LAST, Frontier, score_split
from eenet_jax.schedulers.policy import Policy


def build_frontier(
    scorer: str,
    params: dict[str, Any],
    shares: list[np.ndarray],
    predictions: Predictions,
    lowest_taken: bool = False,
) -> Frontier:
    """Turns shares of samples per exit into candidate policies.

    Args:
      scorer: Name in ``SCORERS``.
      params: Stacked parameters, leaves ``[P, ...]``; ``{}`` for P = 1 without any.
      shares: For each of the P, shares wanted at each exit, ``[M_p, K]``.
      predictions: Their validation part calibrates; every exit's head is charged.
      lowest_taken: See ``thresholds_from_shares``.
    """
    split, costs = predictions.val, predictions.costs
    values = outcome_values(split, costs)
    thresholds, means = [], []
    for p, rows in enumerate(shares):
        chosen = {name: leaf[p] for name, leaf in params.items()}
        policy = Policy(scorer, chosen, np.zeros(len(costs), np.float32))
        scores = score_split(policy, split)
        cuts = thresholds_lib.thresholds_from_shares(scores, rows, lowest_taken)
        cuts = np.unique(cuts, axis=0)
        thresholds.append(cuts)
        means.append(thresholds_lib.realise(scores, cuts, values))
    return frontier_of(scorer, {}, params, thresholds, means, predictions)


def frontier_of(
    scorer: str,
    shared: dict[str, Any],
    params: dict[str, Any],
    thresholds: list[np.ndarray],
    means: list[np.ndarray],
    predictions: Predictions,
) -> Frontier:
    """Assembles candidates, with "all stop at the first exit" and "at the last".

    Args:
      scorer: Name in ``SCORERS``.
      shared: Parameters that all share.
      params: Stacked parameters, leaves ``[P, ...]``.
      thresholds: For each of the P, ``[M_p, K]``.
      means: For each of the P, accuracy and cost of its thresholds, ``[M_p, 2]``.
      predictions: Their validation part calibrates.
    """
    costs, split = predictions.costs, predictions.val
    ends = np.full((2, len(costs)), np.inf, np.float32)
    ends[0, 0] = ends[:, -1] = -np.inf
    of_ends = np.stack([split.correct.mean(axis=1), costs], axis=1)[[0, -1]]
    counts = [len(ends), *map(len, thresholds)]
    members = np.repeat([0, *range(len(thresholds))], counts)
    means = np.concatenate([of_ends, *means])
    return Frontier(
        scorer=scorer,
        shared={name: np.asarray(leaf) for name, leaf in shared.items()},
        params={name: np.asarray(leaf) for name, leaf in params.items()},
        member=members.astype(np.int32),
        thresholds=np.concatenate([ends, *thresholds]),
        val_accuracy=means[:, 0],
        val_cost=means[:, 1],
        cost_unit=predictions.cost_unit,
        num_samples=split.num_samples,
    )


def skipping_frontier(
    scorer: str,
    shared: dict[str, Any],
    params: dict[str, Any],
    thresholds: list[np.ndarray],
    means: list[np.ndarray],
    predictions: Predictions,
) -> Frontier:
    """Assembles candidates whose paths skip exits; arguments as of ``frontier_of``.

    "All stop at the first exit" begins there, and "at the last" tests no other.
    """
    num_tested = predictions.num_exits - 1
    ends = {name: np.asarray(leaf)[[0, 0]] for name, leaf in params.items()}
    ends["start"] = np.array([0, num_tested], np.int32)
    params = {name: np.concatenate([ends[name], leaf]) for name, leaf in params.items()}
    nothing = [np.empty((0, num_tested + 1), np.float32)] * 2, [np.empty((0, 2))] * 2
    built = frontier_of(
        scorer, shared, params, nothing[0] + thresholds, nothing[1] + means, predictions
    )
    member, val_cost = built.member.copy(), built.val_cost.copy()
    member[LAST] = 1
    val_cost[[FIRST, LAST]] = predictions.single_exit_costs[[0, -1]]
    return dataclasses.replace(built, member=member, val_cost=val_cost)


def outcome_values(split: Split, costs: np.ndarray) -> np.ndarray:
    """Returns what each exit gives each sample: correct and cost, ``[2, K, N]``."""
    correct = split.correct.astype(np.float64)
    return np.stack([correct, np.broadcast_to(costs[:, None], correct.shape)])
