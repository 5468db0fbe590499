"""Finite-sample guarantees: budgets and accuracy drops that hold on new data.

Candidates are tested in a fixed order, the safest first, on calibration samples that
neither the scorer nor the candidates were fitted to. Each test is a bet against "the
mean is above the bound" (Waudby-Smith and Ramdas 2024, predictable plug-in); testing
stops at the first that fails, so that all tests together err with probability at most
1 - confidence (fixed-sequence testing, Learn Then Test, Angelopoulos et al. 2021).
"""

from collections.abc import Iterable

import numpy as np

SHUFFLE_SEED = 0  # a bet depends on the samples' order, which must not be theirs


def last_certified(
    candidates: Iterable[np.ndarray], bound: float, confidence: float
) -> int:
    """Returns how far testing gets.

    Args:
      candidates: For each candidate, in order, a value in [0, 1] for every calibration
        sample, ``[N]``: independent draws.
      bound: What the mean must not exceed, on the same scale.
      confidence: In (0, 1): the probability that the mean of every certified candidate
        really is at most the bound.

    Returns:
      Index of the last certified candidate, -1 if the first fails.
    """
    certified, order = -1, None
    for values in candidates:
        if order is None:
            order = np.random.default_rng(SHUFFLE_SEED).permutation(len(values))
        if not is_below(values[order], bound, confidence):
            break
        certified += 1
    return certified


def is_below(values: np.ndarray, bound: float, confidence: float) -> bool:
    """Tests whether a mean is below a bound.

    If it is not, the capital prod_t (1 + s_t (bound - x_t)) of a bet that it is, is a
    non-negative supermartingale from 1 for stakes s_t >= 0 that know x_1..x_{t-1} only,
    so that it ever reaches 1 / (1 - confidence) with probability at most 1 - confidence
    (Ville). The stake is sqrt(2 log(1 / (1 - confidence)) / (N variance so far)), the
    best for a mean just far enough below the bound to be told from it.

    Args:
      values: Independent draws in [0, 1], ``[N]``.
      bound: On the same scale; outside (0, 1) there is nothing to test.
      confidence: In (0, 1).

    Returns:
      True if the capital got there: false alarms are as rare as said.
    """
    if bound >= 1:
        return True
    if bound <= 0:
        return False
    goal = -np.log1p(-confidence)
    count = np.arange(1, len(values) + 1)
    mean = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    known = np.concatenate([[0.25], variance[:-1]])
    stake = np.minimum(np.sqrt(2 * goal / (len(values) * known)), 0.9 / (1 - bound))
    capital = np.cumsum(np.log1p(stake * (bound - values)))
    return bool(capital.max(initial=0.0) >= goal)
