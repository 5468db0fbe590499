"""Finite-sample guarantees: budgets and accuracy drops that hold on new data.

Candidates are tested in a fixed order, the safest first, on calibration samples that
neither the scorer nor the candidates were fitted to. Testing stops at the first
candidate that fails. Let c be the first in the order whose mean is above the bound, if
there is one; which it is does not depend on the calibration samples. A candidate above
the bound is certified only if c passes its test. So all tests together err with
probability at most 1 - confidence, with no share of it for each (fixed-sequence
testing; Learn Then Test, Angelopoulos et al. 2021).

Each test is a bet against "the mean is above the bound" (Waudby-Smith and Ramdas 2024):
only independent draws in [0, 1] are assumed. The stakes aim at winning by the last
sample (as STaR-Bets, Voracek and Orabona 2025), which finds what a normal bound finds.
"""

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

SHUFFLE_SEED = 0  # a bet depends on the samples' order, which must not be theirs
GROUP = 32  # candidates tested at a time, for speed alone
FINENESS = 64  # stakes are reset after this part of the samples that are left
LARGEST_LOSS = 0.9  # share of the capital that one sample may cost
MARGIN = np.log(1.1)  # aim this much higher, as steps are not infinitely small

NORMAL = np.linspace(-10, 4, 2801)
LOG_BELOW = np.log([math.erfc(-z / math.sqrt(2)) / 2 for z in NORMAL])
SLOPE = np.exp(-(NORMAL**2) / 2 - LOG_BELOW) / math.sqrt(2 * math.pi)


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
    certified, order, left = -1, None, iter(candidates)
    while group := list(itertools.islice(left, GROUP)):
        if order is None:
            order = np.random.default_rng(SHUFFLE_SEED).permutation(len(group[0]))
        passed = is_below(np.stack(group)[:, order], bound, confidence)
        if not passed.all():
            return certified + int(np.argmin(passed))
        certified += len(group)
    return certified


def is_below(values: np.ndarray, bound: float, confidence: float) -> np.ndarray:
    """Tests whether means are below a bound.

    If one is not, the capital prod_t (1 + s_t (bound - x_t)) of a bet that it is, is a
    non-negative supermartingale from 1 for stakes s_t >= 0 that know x_1..x_{t-1} only,
    so that it ever reaches 1 / (1 - confidence) with probability at most 1 - confidence
    (Ville), whatever the stakes. Those here depend on the capital so far. Were the
    samples a Brownian motion, a prize of 1 / (1 - confidence) for a sum far enough
    below would cost Phi(z) of it, for some z; capital that is this share of the prize
    buys it with a stake of phi(z) / Phi(z) / sqrt(variance * samples left). It is then
    won as often as by the best test of a normal mean.

    Args:
      values: Independent draws in [0, 1], ``[..., N]``; a test for each row.
      bound: On the same scale; outside (0, 1) there is nothing to test.
      confidence: In (0, 1).

    Returns:
      True where the capital got there: false alarms are as rare as said. ``[...]``.
    """
    if not 0 < bound < 1:
        return np.full(values.shape[:-1], bound >= 1)
    num_samples = values.shape[-1]
    gains = bound - values
    goal = -math.log1p(-confidence)
    capital, spread = np.zeros((2, *values.shape[:-1]))
    for start, stop in _blocks(num_samples):
        variance = (0.25 + spread) / (start + 1)
        stake = np.interp(capital - goal - MARGIN, LOG_BELOW, SLOPE)
        stake = stake / np.sqrt(variance * (num_samples - start))
        stake = np.where(
            capital < goal, np.minimum(stake, LARGEST_LOSS / (1 - bound)), 0
        )
        block = gains[..., start:stop]
        capital += np.log1p(stake[..., None] * block).sum(axis=-1)
        spread += (block**2).sum(axis=-1)
        if np.all(capital >= goal):
            break
    return capital >= goal


def _blocks(num_samples: int) -> Iterator[tuple[int, int]]:
    """Cuts samples into runs, first and past the last of each, shorter to the end."""
    start = 0
    while start < num_samples:
        stop = start + math.ceil((num_samples - start) / FINENESS)
        yield start, stop
        start = stop
