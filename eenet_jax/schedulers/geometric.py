"""MSDNet's and BranchyNet's rule: a geometric exit distribution over a confidence.

Exit k is meant to take a share P_k ~ rho^k of the samples, its most confident ones.
"""

import jax
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.candidates import build_frontier
from eenet_jax.schedulers.thresholds import geometric_shares

NUM_BUDGETS = 1000  # planned costs, so budgets are met to a thousandth of the range


def fit_msdnet(
    predictions: Predictions, *, budgets: np.ndarray, key: jax.Array
) -> Frontier:
    """Fits MSDNet's rule: confidence is the largest class probability."""
    del budgets, key
    return fit("max_prob", predictions)


def fit_branchynet(
    predictions: Predictions, *, budgets: np.ndarray, key: jax.Array
) -> Frontier:
    """Fits BranchyNet's rule: confidence is 1 - normalised entropy."""
    del budgets, key
    return fit("entropy", predictions)


def fit(scorer: str, predictions: Predictions) -> Frontier:
    """Fits the rule for a scorer without parameters."""
    shares = [planned_shares(predictions.costs)]
    return build_frontier(scorer, {}, shares, predictions)


def planned_shares(costs: np.ndarray) -> np.ndarray:
    """Returns geometric shares for planned costs all over the range, ``[M, K]``."""
    planned = np.linspace(costs[0], costs[-1], NUM_BUDGETS + 2)[1:-1]
    return geometric_shares(rho_for_cost(costs, planned), len(costs))


def rho_for_cost(costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Finds rho such that sum_k P_k costs_k = budget, by bisection.

    Args:
      costs: Cumulative cost up to each exit, ``[K]``, not falling.
      budgets: Strictly between the first and the last cost, ``[M]``.

    Returns:
      rho > 0, float64 ``[M]``.
    """
    low = np.full(len(budgets), -50.0)  # of log rho
    high = np.full(len(budgets), 50.0)
    for _ in range(80):
        middle = (low + high) / 2
        over = geometric_shares(np.exp(middle), len(costs)) @ costs > budgets
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.exp(low)
