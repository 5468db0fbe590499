"""Schedulers against one another at equal mean cost on the test part.

A budget is kept on validation data, so two schedulers with the same budget spend a
little more or less than each other on the test part. Here their accuracies are read off
at the same realised cost, with paired bootstrap intervals for the differences.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

REPLICATES = 1000
CONFIDENCE = 0.95
REFERENCE = "maxprob_opt"
SHARES = (0.25, 0.5, 0.75)  # of the cost range
GRID_SIZE = 20
CHUNK = 2**22  # bootstrap counts multiplied at once, in float32


def compare(
    exits: Mapping[str, np.ndarray],
    right: np.ndarray,
    costs: np.ndarray,
    *,
    spent: Mapping[str, np.ndarray] | None = None,
    limit: float = np.inf,
    group_size: int = 1,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares schedulers at equal realised cost on the same N samples.

    A scheduler's curve runs through its policies sorted by mean cost, from the policy
    that stops everyone at the first exit, which all have; between two policies it is a
    straight line, what drawing one of them for each sample gives. Above the most
    expensive policy it is flat: a budget need not be used up.

    Accuracies are read off at 25, 50 and 75 % of the cost range (``points``) and on an
    even grid of 20 costs up to where every scheduler's curve reaches (``grid``; if one
    never leaves the first exit, up to where any reaches).

    An interval holds the middle 95 % of the differences over bootstrap replicates of
    the samples, the same for all schedulers. It says how far the result depends on the
    test samples, for these fits; the spread over seeds is beside it.

    Args:
      exits: For each scheduler the exits taken, int ``[S, Q, N]``, for S seeds of its
        fit and Q budgets.
      right: Whether exit k is right, ``[K, N]``; or, where every pixel has a class,
        its confusion matrices ``[K, N, C, C]``: accuracies are mean IoU then.
      costs: ``[K]``, not falling.
      spent: For each scheduler what samples cost, ``[S, Q, N]``; None: the ``costs`` of
        their exits.
      limit: Where the cost range ends if that is below ``costs[-1]``: the largest
        budget asked for.
      group_size: So many consecutive samples are resampled together (pixels of an
        image, say); the last group may be smaller.
      replicates: Of the bootstrap.
      seed: Of the bootstrap.

    Returns:
      ``reference`` (``maxprob_opt`` if it is there, else the first scheduler),
      ``costs`` (``points`` ``[3]`` and ``grid`` ``[20]``), ``seeds``, ``replicates``,
      ``confidence`` and ``schedulers``. There, for each name, ``points``, ``grid``,
      and their means ``points_mean`` and ``grid_mean``; in each ``accuracy`` (mean over
      seeds), its ``lowest`` and ``highest`` over seeds, ``difference`` to the
      reference, and its ``interval`` (pairs). Ready for ``json.dumps``; ``{}`` without
      schedulers.
    """
    if not exits:
        return {}
    costs, gains = np.asarray(costs, np.float64), _gains(right)
    if spent is None:
        spent = {name: costs[of_seeds] for name, of_seeds in exits.items()}
    tops = [s.mean(axis=1).max() for name in exits for s in spent[name]]
    points, grid = _reference_costs(tops, costs, limit)
    at = np.concatenate([points, grid])
    starts = np.arange(0, gains.shape[-1], group_size)
    draws = _draw(len(starts), replicates, seed)

    found = {}
    for name, of_seeds in exits.items():
        pairs = zip(of_seeds, spent[name], strict=True)
        sums = (_group_sums(e, gains, s, costs[0], starts) for e, s in pairs)
        read = [_read_all(draws, s, len(gains), at) for s in sums]
        found[name] = _with_means(np.stack(read))  # [S, 1 + R, M]
    reference = REFERENCE if REFERENCE in found else next(iter(found))
    return {
        "reference": reference,
        "costs": {"points": points.tolist(), "grid": grid.tolist()},
        "seeds": max(map(len, exits.values())),
        "replicates": replicates,
        "confidence": CONFIDENCE,
        "schedulers": {
            name: {kind: _summary(read[kind], found[reference][kind]) for kind in read}
            for name, read in found.items()
        },
    }


def _gains(right: np.ndarray) -> np.ndarray:
    """Returns of what accuracies are made, ``[V, K, N]``.

    Right answers, or of each class the pixels that are right, and its union.
    """
    right = np.asarray(right, np.float64)
    if right.ndim == 2:
        return right[None]
    hits = np.diagonal(right, axis1=-2, axis2=-1)
    union = right.sum(axis=-1) + right.sum(axis=-2) - hits
    return np.moveaxis(np.concatenate([hits, union], axis=-1), -1, 0)


def _accuracy(totals: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Returns accuracies from sums of gains ``[R, V, P]`` over ``[R, 1]`` samples."""
    if totals.shape[1] == 1:
        return totals[:, 0] / count
    hits, union = np.split(totals, 2, axis=1)
    iou = np.where(union > 0, hits / np.where(union > 0, union, 1.0), np.nan)
    return np.nanmean(iou, axis=1)


def _reference_costs(
    tops: Sequence[float], costs: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the costs ``[3]`` and ``[20]`` at which to compare.

    Args:
      tops: Mean cost of the most expensive policy of each scheduler and seed.
      costs: ``[K]``.
      limit: See ``compare``.
    """
    low, high = costs[0], max(costs[0], min(costs[-1], limit))
    points = low + np.array(SHARES) * (high - low)
    top = min(tops) if min(tops) > low * (1 + 1e-9) else max(tops)
    return points, np.linspace(low, top, GRID_SIZE)


def _group_sums(
    exit_index: np.ndarray,
    gains: np.ndarray,
    spent: np.ndarray,
    first: float,
    starts: np.ndarray,
) -> np.ndarray:
    """Sums V gains, costs and samples in groups, ``[Q, N] -> [(V + 1) P + 1, G]``.

    The first of P = 1 + Q policies stops everyone at the first exit, at cost ``first``.
    """
    spent = np.concatenate([np.full_like(spent[:1], first), spent])
    exit_index = np.concatenate([np.zeros_like(exit_index[:1]), exit_index])
    taken = gains[:, exit_index, np.arange(gains.shape[-1])]  # [V, P, N]
    taken = taken.reshape(-1, gains.shape[-1])
    values = np.concatenate([taken, spent, np.ones_like(taken[:1])])
    if len(starts) == values.shape[-1]:
        return values
    return np.add.reduceat(values, starts, axis=-1)


def _draw(num_groups: int, replicates: int, seed: int) -> np.ndarray:
    """Draws how often each group is in each replicate, uint16 ``[R, G]``."""
    rng = np.random.default_rng(seed)
    counts = np.empty((replicates, num_groups), np.uint16)
    for rows in _chunks(replicates, num_groups):
        drawn = rng.integers(num_groups, size=(rows.stop - rows.start, num_groups))
        drawn += num_groups * np.arange(len(drawn))[:, None]
        found = np.bincount(drawn.ravel(), minlength=drawn.size)
        counts[rows] = found.reshape(drawn.shape)
    return counts


def _chunks(replicates: int, num_groups: int) -> Iterator[slice]:
    size = max(1, CHUNK // num_groups)
    for start in range(0, replicates, size):
        yield slice(start, min(start + size, replicates))


def _read_all(
    draws: np.ndarray, sums: np.ndarray, num_gains: int, at: np.ndarray
) -> np.ndarray:
    """Reads a curve off, as it is and in every replicate.

    Args:
      draws: How often each group is in each replicate, ``[R, G]``.
      sums: Of V gains at P points, of costs there, and of samples,
        ``[(V + 1) P + 1, G]``.
      num_gains: V.
      at: Costs, ``[M]``.

    Returns:
      ``[1 + R, M]``.
    """
    totals = [sums.sum(axis=1)[None]]
    for rows in _chunks(*draws.shape):
        totals.append(np.asarray(_totals(draws[rows], sums)))
    totals = np.concatenate(totals)
    count = totals[:, -1:]
    parts = totals[:, :-1].reshape(len(totals), num_gains + 1, -1)
    accuracy = _accuracy(parts[:, :-1], count)
    return interpolate(at, parts[:, -1] / count, accuracy)


@jax.jit
def _totals(counts: jax.Array, sums: jax.Array) -> jax.Array:
    """Sums each group as often as it was drawn, ``[R, G], [Z, G] -> [R, Z]``."""
    counts, sums = counts.astype(jnp.float32), sums.astype(jnp.float32)
    return jnp.einsum("rg,zg->rz", counts, sums, precision="highest")


def interpolate(at: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Reads R curves off at the same M costs; flat beyond their ends.

    Args:
      at: ``[M]``.
      cost: Of the P points of each curve, in any order, ``[R, P]``.
      accuracy: Likewise; of points of equal cost the most accurate counts.

    Returns:
      ``[R, M]``.
    """
    order = np.lexsort((accuracy, cost), axis=-1)
    cost = np.take_along_axis(cost, order, axis=-1)
    accuracy = np.take_along_axis(accuracy, order, axis=-1)
    at = np.maximum(at[None], cost[:, :1])  # [M] -> [R, M]
    left = (cost[:, None, :] <= at[:, :, None]).sum(axis=-1) - 1
    right = np.minimum(left + 1, cost.shape[-1] - 1)
    from_cost, to_cost = (np.take_along_axis(cost, i, axis=-1) for i in (left, right))
    gap = to_cost - from_cost
    share = np.where(gap > 0, (at - from_cost) / np.where(gap > 0, gap, 1.0), 0.0)
    start, end = (np.take_along_axis(accuracy, i, axis=-1) for i in (left, right))
    return start + share * (end - start)


def _with_means(read: np.ndarray) -> dict[str, np.ndarray]:
    """Splits ``[..., M]`` into points, grid, and the means of both."""
    points, grid = np.split(read, [len(SHARES)], axis=-1)
    return {
        "points": points,
        "points_mean": points.mean(axis=-1),
        "grid": grid,
        "grid_mean": grid.mean(axis=-1),
    }


def _summary(read: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Summarises a scheduler, ``[S, 1 + R, ...]``; the first of axis 1 is the data."""
    tail = (1 - CONFIDENCE) / 2
    apart = read.mean(axis=0) - reference.mean(axis=0)
    return {
        "accuracy": read[:, 0].mean(axis=0).tolist(),
        "lowest": read[:, 0].min(axis=0).tolist(),
        "highest": read[:, 0].max(axis=0).tolist(),
        "difference": apart[0].tolist(),
        "interval": np.quantile(apart[1:], [tail, 1 - tail], axis=0).T.tolist(),
    }


def random_mixture(
    accuracy: np.ndarray, costs: np.ndarray, budgets: np.ndarray
) -> np.ndarray:
    """Returns the best accuracy of a chooser that ignores the sample.

    It draws each sample's exit from one distribution of mean cost at most the budget:
    the upper concave hull of the exits' own points, of which two always suffice.

    Args:
      accuracy: Of exit k for all samples, ``[K]``.
      costs: ``[K]``.
      budgets: ``[Q]``.

    Returns:
      ``[Q]``; NaN for a budget below every cost.
    """
    accuracy, costs = np.asarray(accuracy, np.float64), np.asarray(costs, np.float64)
    limit = np.asarray(budgets, np.float64)[:, None, None] * (1 + 1e-12)
    low, high = costs[None, :, None], costs[None, None, :]
    gap = np.where(high > low, high - low, 1.0)
    share = np.where(high > limit, (limit - low) / gap, 1.0)  # of the second exit
    mixed = (1 - share) * accuracy[None, :, None] + share * accuracy[None, None, :]
    best = np.where(low <= limit, mixed, -np.inf).max(axis=(1, 2))
    return np.where(np.isfinite(best), best, np.nan)
