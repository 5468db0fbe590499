"""Thresholds: from shares of samples to scores and back.

The functions in NumPy work on the calibration split, whose scores they may look up.
"""

import jax
import jax.numpy as jnp
import numpy as np

TIE = 5e-7  # relative difference below which scores count as equal


def first_exit(scores: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Picks the earliest exit whose score reaches its threshold.

    The last exit takes every sample that no earlier exit claimed, whatever its score.

    Args:
      scores: Exit scores, shape ``[K, B]``.
      thresholds: Score needed to leave at each exit, shape ``[K]``. The last is -inf.

    Returns:
      Exit index per sample, int32, shape ``[B]``, each in ``[0, K-1]``.

    Raises:
      ValueError: If the two disagree on ``K``.

    Example:
      >>> first_exit(jnp.array([[0.9, 0.2], [0.1, 0.3]]), jnp.array([0.5, -jnp.inf]))
      Array([0, 1], dtype=int32)
    """
    if scores.shape[0] != thresholds.shape[0]:
        raise ValueError(f"{scores.shape[0]} exits, {thresholds.shape[0]} thresholds")
    ready = scores >= thresholds[:, None]
    return jnp.argmax(ready.at[-1].set(True), axis=0).astype(jnp.int32)


def geometric_shares(rho: np.ndarray, num_exits: int) -> np.ndarray:
    """Returns P_k ~ rho^k, shape ``[M, K]``, rows summing to 1, for rho > 0 ``[M]``."""
    log_shares = np.log(rho)[:, None] * np.arange(num_exits)
    shares = np.exp(log_shares - log_shares.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def thresholds_from_shares(
    scores: np.ndarray, shares: np.ndarray, lowest_taken: bool = False
) -> np.ndarray:
    """Finds the thresholds that send given shares of the samples to each exit.

    Exit k takes the floor(share_k N) best-scoring samples that are left. Its threshold
    lies halfway between the lowest score taken and the highest left. Equal scores are
    taken together or not at all, whichever is nearer. An exit that takes nobody gets
    +inf.

    Args:
      scores: Of the calibration samples, float32 ``[K, N]``.
      shares: Shape ``[M, K]``, rows summing to 1.
      lowest_taken: Put thresholds at the lowest score taken instead, as EENet does.

    Returns:
      float32 ``[M, K]``; the last column is -inf.
    """
    num_exits, num_samples = scores.shape
    descending = np.argsort(-scores, axis=1, kind="stable")
    counts = np.floor(shares * num_samples + 1e-6).astype(int)
    thresholds = np.full(shares.shape, np.inf, np.float32)
    thresholds[:, -1] = -np.inf
    for m, wanted in enumerate(counts):
        left = np.ones(num_samples, bool)
        for k in range(num_exits - 1):
            if wanted[k]:
                ranked = scores[k, descending[k]][left[descending[k]]]
                thresholds[m, k] = cut_after(ranked, wanted[k], lowest_taken)
                left &= scores[k] < thresholds[m, k]
    return thresholds


def cut_after(ranked: np.ndarray, count: int, at_lowest: bool = False) -> float:
    """Returns the threshold that takes the ``count`` first of falling scores.

    Args:
      ranked: Scores, falling, float32 ``[N]``.
      count: At least 1. Scores equal to the last one wanted are all taken, or, where
        that is nearer, none of them.
      at_lowest: At the lowest score taken (but for rounding), not halfway below it.
    """
    if not len(ranked):
        return np.inf
    if count >= len(ranked):
        return -np.inf
    # Scores are equal up to rounding, which may differ from program to program.
    lowest = np.float64(ranked[count - 1])
    rising = ranked[::-1].astype(np.float64)
    margin = TIE * max(1.0, abs(lowest))
    with_equal = len(ranked) - int(np.searchsorted(rising, lowest - margin))
    above = len(ranked) - int(np.searchsorted(rising, lowest + margin, "right"))
    count = with_equal if with_equal - count <= count - above else above
    if count == 0:
        return np.inf
    if count == len(ranked):
        return -np.inf
    lowest_taken, highest_left = ranked[count - 1], ranked[count]
    if at_lowest:
        equal = np.float64(lowest_taken) - TIE * max(1.0, abs(float(lowest_taken)))
        return max(np.float32(equal), np.nextafter(highest_left, np.float32(np.inf)))
    middle = np.float32((np.float64(lowest_taken) + np.float64(highest_left)) / 2)
    return middle if middle > highest_left else lowest_taken


def realise(
    scores: np.ndarray, thresholds: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Returns the mean of ``values`` at the exits taken, for many threshold vectors.

    Args:
      scores: Shape ``[K, N]``.
      thresholds: Shape ``[M, K]``, the last column -inf.
      values: What each exit gives each sample, ``[Q, K, N]``, e.g. correct and cost.

    Returns:
      float64 ``[M, Q]``.
    """
    means = np.empty((len(thresholds), len(values)))
    columns = np.arange(scores.shape[1])
    for m, row in enumerate(thresholds):
        taken = np.argmax(scores >= row[:, None], axis=0)
        means[m] = values[:, taken, columns].mean(axis=1, dtype=np.float64)
    return means


def shares_of(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of samples that leaves at each exit, ``[M, K]``."""
    num_exits = len(scores)
    indicator = np.broadcast_to(
        np.eye(num_exits)[:, :, None], (num_exits, num_exits, scores.shape[1])
    )
    return realise(scores, thresholds, indicator)
