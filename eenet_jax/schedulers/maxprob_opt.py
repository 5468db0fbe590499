"""Thresholds on a confidence, optimised on the validation split.

For a price lambda of cost, coordinate ascent on mean(correct - lambda cost): every step
finds the exact best threshold of one exit, given all others, among all N + 1 cuts. All
prices run at once; between neighbouring solutions the shares are interpolated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import thresholds as thresholds_lib
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import build_frontier, outcome_values
from eenet_jax.schedulers.policy import Policy

NUM_PRICES = 64
NUM_SWEEPS = 8
NUM_CANDIDATES = 1000


def fit(predictions: Predictions, *, budgets: np.ndarray, key: jax.Array) -> Frontier:
    """Fits thresholds on the largest class probability for every budget."""
    del budgets, key
    return _fit("max_prob", predictions)


def fit_entropy(
    predictions: Predictions, *, budgets: np.ndarray, key: jax.Array
) -> Frontier:
    """Fits thresholds on 1 - normalised entropy for every budget."""
    del budgets, key
    return _fit("entropy", predictions)


def _fit(scorer: str, predictions: Predictions) -> Frontier:
    split, costs = predictions.val, predictions.costs
    policy = Policy(scorer, {}, np.zeros(len(costs), np.float32))
    scores = score_split(policy, split)
    shares = optimise_shares(scores, outcome_values(split, costs), costs)
    return build_frontier(scorer, {}, [shares], predictions)


def optimise_shares(
    scores: np.ndarray, values: np.ndarray, costs: np.ndarray
) -> np.ndarray:
    """Finds shares per exit along the whole accuracy-cost frontier.

    Args:
      scores: Exit scores of the calibration split, ``[K, N]``.
      values: Correct and cost of every exit and sample, ``[2, K, N]``.
      costs: ``[K]``.

    Returns:
      Shares, ``[M, K]``, from the cheapest to the most expensive.
    """
    unit_price = 1 / max(costs[-1] - costs[0], 1e-12 * costs[-1])
    prices = np.append(np.geomspace(10, 1e-3, NUM_PRICES - 1), 0) * unit_price
    gains = values[0][None] - prices[:, None, None] * values[1][None]  # [L, K, N]
    found = np.asarray(_ascend(scores, gains.astype(np.float32)))
    means = thresholds_lib.realise(scores, found, values)
    corners = found[upper_hull(means[:, 1], means[:, 0])]
    shares = thresholds_lib.shares_of(scores, corners)
    shares = np.concatenate([np.eye(len(costs))[:1], shares])
    return interpolate(shares, costs, NUM_CANDIDATES)


def upper_hull(cost: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Returns the rows on the upper concave hull, by rising cost.

    It ends at the most accurate row. The order of rows makes no difference.
    """
    hull: list[int] = []
    for i in np.lexsort((-accuracy, cost)):
        if hull and accuracy[i] <= accuracy[hull[-1]]:
            continue
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            rise = (accuracy[b] - accuracy[a]) * (cost[i] - cost[a])
            if rise > (accuracy[i] - accuracy[a]) * (cost[b] - cost[a]):
                break
            hull.pop()
        hull.append(int(i))
    return np.array(hull)


def interpolate(shares: np.ndarray, costs: np.ndarray, count: int) -> np.ndarray:
    """Returns shares at ``count`` planned costs, linear between the rows given.

    Args:
      shares: Rows of rising planned cost ``shares @ costs``, ``[M, K]``.
      costs: ``[K]``.
      count: Rows wanted; the given ones are added.
    """
    planned = np.maximum.accumulate(shares @ costs)
    wanted = np.linspace(planned[0], planned[-1], count)
    columns = [np.interp(wanted, planned, column) for column in shares.T]
    return np.concatenate([np.stack(columns, axis=1), shares])


@functools.partial(jax.jit)
def _ascend(scores: jax.Array, gains: jax.Array) -> jax.Array:
    """Coordinate ascent for all prices, ``[K, N]`` and ``[L, K, N] -> [L, K]``."""
    num_exits, num_samples = scores.shape
    order = jnp.argsort(-scores, axis=1)
    ranked = jnp.take_along_axis(scores, order, axis=1)
    # A cut after position i takes i + 1 samples; equal scores cannot be cut apart.
    following = jnp.concatenate(
        [ranked[:, 1:], jnp.full((num_exits, 1), -jnp.inf)], axis=1
    )
    can_cut = ranked > following

    def best_threshold(k, thresholds, gain):
        """The best threshold of exit k, given the others."""
        later = gain[-1]
        for j in range(num_exits - 2, k, -1):
            later = jnp.where(scores[j] >= thresholds[j], gain[j], later)
        reached = jnp.ones(num_samples, bool)
        for j in range(k):
            reached &= scores[j] < thresholds[j]
        better = jnp.where(reached, gain[k] - later, 0.0)[order[k]]
        total = jnp.where(can_cut[k], jnp.cumsum(better), -jnp.inf)
        cut = jnp.argmax(total)
        middle = (ranked[k, cut] + following[k, cut]) / 2
        threshold = jnp.where(middle > following[k, cut], middle, ranked[k, cut])
        return jnp.where(total[cut] > 0, threshold, jnp.inf)

    def sweep(_, thresholds, gain):
        for k in range(num_exits - 2, -1, -1):
            thresholds = thresholds.at[k].set(best_threshold(k, thresholds, gain))
        return thresholds

    def ascend(gain):
        start = jnp.full(num_exits, jnp.inf).at[-1].set(-jnp.inf)
        step = functools.partial(sweep, gain=gain)
        return jax.lax.fori_loop(0, NUM_SWEEPS, step, start)

    return jax.lax.map(ascend, gains, batch_size=8)
