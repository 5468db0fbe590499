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
    certified = -1
    for values in candidates:
        order = np.random.default_rng(SHUFFLE_SEED).permutation(len(values))
        if log_evidence(values[order], bound) < -np.log1p(-confidence):
            break
        certified += 1
    return certified


def log_evidence(values: np.ndarray, bound: float) -> float:
    """Returns the log of the highest capital of a bet that the mean is below a bound.

    If the mean is at least the bound, the capital prod_t (1 + s_t (bound - x_t)) is a
    non-negative supermartingale from 1, so that it ever reaches 1 / (1 - confidence)
    with probability at most 1 - confidence (Ville). The stake s_t follows from the
    earlier values' mean and variance.

    Args:
      values: Independent draws in [0, 1], ``[N]``.
      bound: In [0, 1].

    Returns:
      The log-capital at its highest, 0 or more; infinite if the bound is 1 or more.
    """
    if bound >= 1:
        return np.inf
    if bound <= 0:
        return 0.0
    count = np.arange(1, len(values) + 1)
    mean = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    # The stake before value t knows values 1..t-1 only. The growth rate of a bet on a
    # mean m and a variance v is highest near (bound - m) / (v + (bound - m)^2).
    gap = np.concatenate([[bound - 0.5], bound - mean[:-1]])
    spread = np.concatenate([[0.25], variance[:-1]])
    stake = np.clip(gap / (spread + gap**2), 0.0, 0.9 / (1 - bound))
    return float(np.max(np.cumsum(np.log1p(stake * (bound - values))), initial=0.0))
