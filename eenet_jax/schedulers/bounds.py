"""What no scheduler can beat."""

import numpy as np

from eenet_jax.predictions import Split


def clairvoyant(split: Split, costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Returns the accuracy of a chooser that knows which exits are right.

    A sample that some exit gets right is worth sending to the earliest such exit; the
    cheapest of them are sent first. An upper bound for every policy on this split.

    Args:
      split: N samples.
      costs: Cumulative cost up to each exit, ``[K]``.
      budgets: Mean costs per sample, ``[Q]``.

    Returns:
      Accuracies, float64 ``[Q]``; NaN for a budget below ``costs[0]``.
    """
    correct = split.correct
    first = np.argmax(correct, axis=0)
    extra = np.sort((costs - costs[0])[first[correct.any(axis=0)]])
    num_samples = len(split.labels)
    spent = costs[0] + np.cumsum(extra) / num_samples
    budgets = np.asarray(budgets, np.float64)
    right = np.searchsorted(spent, budgets * (1 + 1e-12), side="right")
    return np.where(budgets < costs[0] * (1 - 1e-12), np.nan, right / num_samples)
