"""The learned forecast: after each test leave, or go to the exit most worth testing.

For a price lambda of cost, leaving at exit k is worth S_k = correct_k - lambda b_k,
with b_k what the network costs up to there. Testing exit j is worth R_j: S_j or the R
of the exit that it names next, less what its head costs. Backward over the exits, the
advantages

    A_kj(x) = E[S_k - R_j | x]    for all j > k,

of leaving at k over testing j next, are ridge regressions on how sure exit k is; the
least of them decides. Classes are not told apart, so their order makes no difference.
Decisions that enter R come from folds that did not see the sample.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import skipping_frontier
from eenet_jax.schedulers.confidence import (
    OWN,
    dense_design,
    design_params,
    own_features,
)
from eenet_jax.schedulers.folds import draw_folds
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.price_frontier import thresholds_between
from eenet_jax.schedulers.thresholds import realise

SCORER = "forecast_learned"


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      prices: Prices lambda, in accuracy per cost range, as many as policies.
      lowest: The lowest price.
      highest: The highest.
      units: Random tanh units an exit.
      folds: Folds of the validation part.
      ridges: Strengths tried, of which each exit takes its best.
    """

    prices: int = 40
    lowest: float = 3e-3
    highest: float = 3.0
    units: int = 32
    folds: int = 5
    ridges: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3)


DEFAULT_RECIPE = Recipe()


def fit(
    predictions: Predictions,
    *,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Frontier:
    """Fits forecasts for a grid of prices, which serves every budget.

    Args:
      predictions: The validation part is fitted.
      key: Of the folds and the random units.
      recipe: Hyper-parameters.
    """
    split = predictions.val
    backbone, heads = predictions.split_costs
    scale = max(np.ptp(predictions.costs), 1e-12 * predictions.costs[-1])
    prices = np.geomspace(recipe.lowest, recipe.highest, recipe.prices)
    num_tested = predictions.num_exits - 1
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    size = (num_tested, OWN, recipe.units)
    units = rng.standard_normal(size).astype(np.float32)
    offsets = rng.standard_normal(size[::2]).astype(np.float32)
    places = _rows_of_folds(draw_folds(rng, split.num_samples, recipe.folds))
    fitted = _fit_prices(
        split.logits[:-1],
        split.correct.astype(np.float32),
        (backbone / scale).astype(np.float32),
        (heads / scale).astype(np.float32),
        prices.astype(np.float32),
        (units, offsets),
        places,
        ridges=recipe.ridges,
    )
    shared, params, crossed = jax.device_get(fitted)
    return _frontier(shared, params, crossed, predictions)


def _rows_of_folds(fold: np.ndarray) -> np.ndarray:
    """Returns each fold's rows, filled up with -1, int32 ``[F, n]``."""
    rows = [np.flatnonzero(fold == f) for f in range(fold.max() + 1)]
    places = np.full((len(rows), max(map(len, rows))), -1, np.int32)
    for place, of_fold in zip(places, rows, strict=True):
        place[: len(of_fold)] = of_fold
    return places


@functools.partial(jax.jit, static_argnames="ridges")
def _fit_prices(logits, correct, backbone, heads, prices, draws, places, *, ridges):
    """Fits the advantages of all prices, backward over the exits.

    Args:
      logits: Of the exits but the last, ``[E, N, C]``.
      correct: ``[K, N]``, K = E + 1.
      backbone: Cost up to each exit without heads, ``[K]``.
      heads: Cost of the heads, ``[K]``.
      prices: ``[L]``.
      draws: Units ``[E, D, R]`` and offsets ``[E, R]``.
      places: Rows of each fold, -1 where there is none, ``[F, n]``.
      ridges: Strengths to choose from.

    Returns:
      The design's parameters, ``weights`` ``[L, E, W, K]`` with ``start`` ``[L]``, and
      from fits without their fold each sample's scores, float32, and targets, int32
      ``[L, E, N]``.
    """
    x = jax.vmap(own_features)(logits)
    shared = design_params(x, *draws)
    num_exits, num_samples = correct.shape
    present = (places >= 0).astype(jnp.float32)[..., None]  # [F, n, 1]
    exits = jnp.arange(num_exits)

    def in_folds(of_samples):
        """``[N, ...]`` to ``[F, n, ...]``."""
        return of_samples[places]

    charged = backbone[:, None] * prices[None]
    stop = in_folds(correct.T)[..., None] - charged[None, None]  # [F, n, K, L]
    at_end = stop[:, :, -1] - (heads[-1] * prices)[None, None]
    last = jnp.zeros_like(stop).at[:, :, -1].set(at_end)

    def at_exit(testing, inputs):
        """From R of the later exits, ``[F, n, K, L]``, to this exit's too."""
        k, x = inputs
        later = (exits > k)[None, None, :, None]
        design = dense_design(shared, k, x)
        design = present * in_folds(design)
        leaving = jax.lax.dynamic_index_in_dim(stop, k, axis=2)
        target = jnp.where(later, leaving - testing, 0.0)
        weights, crossed = _cross_fit(
            design, present[..., None] * target, later, ridges
        )
        best = jnp.argmin(crossed, axis=2, keepdims=True)
        score = jnp.take_along_axis(crossed, best, axis=2)
        going = jnp.take_along_axis(testing, best, axis=2)
        of_head = (heads[k] * prices)[None, None, None]
        found = jnp.where(score >= 0, leaving, going) - of_head
        testing = jax.lax.dynamic_update_index_in_dim(
            testing, found[:, :, 0], k, axis=2
        )
        return testing, (weights, score[:, :, 0], best[:, :, 0].astype(jnp.int32))

    inputs = (jnp.arange(num_exits - 1), x)
    testing, (weights, score, target) = jax.lax.scan(
        at_exit, last, inputs, reverse=True
    )
    total = jnp.sum(present[..., None] * testing, axis=(0, 1))  # [K, L]
    params = {
        "weights": jnp.transpose(weights, (3, 0, 1, 2)),  # [E, W, K, L]
        "start": jnp.argmax(total, axis=0).astype(jnp.int32),
    }

    def by_sample(values):
        """``[E, F, n, L]`` to ``[L, E, N]``."""
        flat = values.reshape(num_exits - 1, -1, len(prices))
        empty = jnp.zeros((num_exits - 1, num_samples, len(prices)), values.dtype)
        rows = jnp.where(places < 0, num_samples, places).ravel()
        filled = empty.at[:, rows].set(flat, mode="drop")
        return jnp.transpose(filled, (2, 0, 1))

    return shared, params, (by_sample(score), by_sample(target))


def _cross_fit(design, target, later, ridges):
    """Ridge regressions of one strength, chosen by the decisions it leads to.

    Args:
      design: ``[F, n, W]``; rows that fill up are 0.
      target: S_k - R_j, ``[F, n, K, L]``.
      later: Which j come later than this exit, ``[1, 1, K, 1]``.
      ridges: Strengths to choose from.

    Returns:
      Weights from all samples ``[W, K, L]``, and advantages for each sample from the
      folds without it ``[F, n, K, L]``, infinite where j does not come later.
    """
    shape = target.shape
    flat = target.reshape(*shape[:2], -1)
    grams = jnp.einsum("fnv,fnw->fvw", design, design)
    moments = jnp.einsum("fnw,fnt->fwt", design, flat)
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)
    # The intercept is free; so is, nearly, the log-odds: strong ridges leave that rule.
    kinds = jnp.ones(design.shape[-1]).at[0].set(0.0).at[1].set(0.01)

    def solve(gram, moment, ridge):
        factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(ridge * kinds + 1e-3))
        return jax.scipy.linalg.cho_solve(factor, moment)

    def without_folds(ridge):
        of_fold = jax.vmap(lambda g, m: solve(gram - g, moment - m, ridge))
        found = jnp.einsum("fnw,fwt->fnt", design, of_fold(grams, moments))
        found = jnp.where(later, found.reshape(shape), jnp.inf)
        best = jnp.argmin(found, axis=2, keepdims=True)
        score = jnp.take_along_axis(found, best, axis=2)
        lost = jnp.take_along_axis(target, best, axis=2)
        # What the decisions bring, but for S_k, which all share.
        return jnp.where(score >= 0, 0.0, -lost).sum(), found

    values, crossed = jax.lax.map(without_folds, jnp.array(ridges))
    best = jnp.argmax(values)
    weights = solve(gram, moment, jnp.array(ridges)[best])
    return weights.reshape(-1, *shape[2:]), crossed[best]


def _frontier(shared, params, crossed, predictions: Predictions) -> Frontier:
    """Turns advantages for prices into candidates for all budgets.

    Thresholds around 0 reach the costs between those of two prices. What they cost is
    measured with the policy itself, how accurate they are on samples not fitted to.
    """
    split = predictions.val
    num_prices, num_tested = params["weights"].shape[:2]
    at_zero = np.zeros(num_tested + 1, np.float32)
    at_zero[-1] = -np.inf
    correct = split.correct.astype(np.float64)
    scores, values, honest = [], [], []
    for m in range(num_prices):
        member = {name: leaf[m] for name, leaf in params.items()}
        policy = Policy(SCORER, {**shared, **member}, at_zero)
        scores.append(score_split(policy, split))
        values.append(np.stack([correct, _charges(policy, scores[m], predictions)]))
        honest.append(path_scores(crossed[0][m], crossed[1][m], member["start"]))
    cuts, means = [], []
    for m, chosen in enumerate(thresholds_between(scores, values, 0.0)):
        cost = realise(scores[m], chosen, values[m])[:, 1]
        accuracy = realise(honest[m], chosen, values[m])[:, 0]
        cuts.append(chosen)
        means.append(np.stack([accuracy, cost], axis=1))
    return skipping_frontier(SCORER, shared, params, cuts, means, predictions)


def _charges(policy: Policy, scores: np.ndarray, predictions: Predictions):
    charges = policy.charges(*predictions.prices, scores)
    return (
        charges
        if charges.ndim == 2
        else np.repeat(charges[:, None], scores.shape[1], 1)
    )


def path_scores(scores: np.ndarray, targets: np.ndarray, start: int) -> np.ndarray:
    """Returns the scores on each sample's path, -inf off it.

    Args:
      scores: At every exit but the last as if it were tested, ``[E, N]``.
      targets: The exit to test next, likewise.
      start: The first exit tested.

    Returns:
      ``[E + 1, N]``, 0 for the last exit, which all see.
    """
    num_tested, num_samples = scores.shape
    found = np.full((num_tested + 1, num_samples), -np.inf, np.float32)
    found[-1] = 0.0
    target = np.full(num_samples, start)
    for k in range(num_tested):
        asked = target == k
        found[k, asked] = scores[k, asked]
        target = np.where(asked, targets[k], target)
    return found
