"""Optimal stopping for a price of cost: the default scheduler.

For a price lambda, stopping at exit k is worth correct_k - lambda c_k, and going on
is worth what the best later stop gives. Backward over the exits, the advantage of
stopping,

    A_k(x) = E[(correct_k - lambda c_k) - V_{k+1} | x],
    V_k = correct_k - lambda c_k  where A_k >= 0, else V_{k+1},

is a ridge regression on the confidence features x of exit k, on random tanh units of
them, and on the class it answers. The design is the same for every price, so one
factorisation serves all of them: the whole frontier is a few matrix products. Decisions
that enter V come from folds that did not see the sample, which keeps the advantage
honest on small validation sets, and choose the strength of the ridge.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import (
    Frontier,
    frontier_of,
    outcome_values,
    score_split,
)
from eenet_jax.schedulers.confidence import (
    dense_design,
    features,
    init_trail,
    num_features,
)
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.thresholds import realise


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      prices: Prices lambda, in accuracy per cost range, as many as policies.
      lowest: The lowest price.
      highest: The highest.
      units: Random tanh units an exit.
      folds: Folds of the validation part.
      ridges: Strengths tried, of which each exit takes its best.
      class_ridges: Factors tried on top of it for the weights of classes.
    """

    prices: int = 40
    lowest: float = 3e-3
    highest: float = 3.0
    units: int = 128
    folds: int = 5
    ridges: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0)
    class_ridges: tuple[float, ...] = (1.0, 10.0)


DEFAULT_RECIPE = Recipe()


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Frontier:
    """Fits advantages for a grid of prices, which serves every budget.

    Args:
      predictions: The validation part is fitted.
      budgets: Not used.
      key: Of the random units and the folds.
      recipe: Hyper-parameters.
    """
    del budgets
    split, costs = predictions.val, predictions.costs
    scale = max(costs[-1] - costs[0], 1e-12 * costs[-1])
    prices = np.geomspace(recipe.lowest, recipe.highest, recipe.prices)
    shared, params, crossed = _fit_prices(
        jnp.asarray(split.logits),
        jnp.asarray(split.correct, jnp.float32),
        jnp.asarray((costs - costs[0]) / scale, jnp.float32),
        jnp.asarray(prices, jnp.float32),
        *_draws(key, *split.logits.shape[:2], recipe),
        recipe=recipe,
    )
    shared, params, crossed = jax.device_get((shared, params, crossed))
    return _frontier(shared, params, crossed, predictions)


def all_features(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns confidence features ``[K-1, N, D]`` and answers int32 ``[K-1, N]``."""
    num_exits, num_samples, num_classes = logits.shape
    trail = init_trail(num_samples, num_exits, num_classes)
    xs, answers = [], []
    for k in range(num_exits - 1):
        x, answer, trail = features(k, logits[k], trail)
        xs.append(x)
        answers.append(answer)
    return jnp.stack(xs), jnp.stack(answers)


def _draws(key, num_exits, num_samples, recipe):
    """Draws units, offsets and each sample's fold; with NumPy, as in eenet.py."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    size = (num_exits - 1, num_features(num_exits), recipe.units)
    units = rng.standard_normal(size).astype(np.float32)
    offsets = rng.standard_normal((num_exits - 1, recipe.units)).astype(np.float32)
    fold = rng.permutation(np.arange(num_samples, dtype=np.int32) % recipe.folds)
    return units, offsets, fold


@functools.partial(jax.jit, static_argnames="recipe")
def _fit_prices(logits, correct, costs, prices, units, offsets, fold, *, recipe):
    """Fits all exits and prices.

    Returns the shared parameters, those of each price (leaves ``[L, K-1, ...]``), and
    the advantages of the samples from folds without them, ``[L, K-1, N]``.
    """
    num_exits, _, num_classes = logits.shape
    x, answers = all_features(logits)
    std = x.std(axis=1)
    live = std > 1e-6  # places of exits to come are not
    fan_in = jnp.maximum(live.sum(axis=1), 1)[:, None, None]
    shared = {
        "mean": x.mean(axis=1),
        "std": jnp.where(live, std, 1.0),
        "units": units * live[:, :, None] / jnp.sqrt(fan_in),
        "offsets": offsets,
    }
    stop = correct[..., None] - prices[None, None] * costs[:, None, None]  # [K, N, L]

    def at_exit(later, inputs):
        """From V of the next exit, ``[N, L]``, to this exit's V and weights."""
        k, x, answer, stop = inputs
        dense = dense_design(shared, k, x)
        of_class = jax.nn.one_hot(answer, num_classes)
        design = jnp.concatenate([dense, of_class, of_class * dense[:, 1:2]], axis=1)
        kinds = jnp.concatenate(
            [jnp.zeros(1), jnp.ones(dense.shape[1] - 1), jnp.full(2 * num_classes, 2.0)]
        )
        weights, crossed = _cross_fit(design, stop - later, kinds, fold, recipe)
        value = jnp.where(crossed >= 0, stop, later)
        return value, (weights, crossed)

    inputs = (jnp.arange(num_exits - 1), x, answers, stop[:-1])
    _, (weights, crossed) = jax.lax.scan(at_exit, stop[-1], inputs, reverse=True)
    ends = np.cumsum([1 + x.shape[2] + recipe.units, num_classes])
    weights = jnp.moveaxis(weights, -1, 0)  # [K-1, W, L] -> [L, K-1, W]
    dense, bias, slope = jnp.split(weights, ends, axis=-1)
    params = {"weights": dense, "bias": bias, "slope": slope}
    return shared, params, jnp.moveaxis(crossed, -1, 0)


def _cross_fit(design, target, kinds, fold, recipe):
    """Ridge regression with its strength chosen by the decisions it leads to.

    Args:
      design: ``[N, W]``.
      target: Stop value less the value of going on, ``[N, L]``.
      kinds: 0 for the free intercept, 1 for dense columns, 2 for those of classes.
      fold: Of each sample, ``[N]``.
      recipe: Hyper-parameters.

    Returns:
      Weights from all samples, ``[W, L]``, and predictions ``[N, L]`` for each sample
      from the folds without it.
    """
    member = jax.nn.one_hot(fold, recipe.folds).T  # [F, N]
    grams = jnp.einsum("fn,nv,nw->fvw", member, design, design)
    moments = jnp.einsum("fn,nw,nl->fwl", member, design, target)
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)

    def solve(gram, moment, penalty):
        factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(penalty))
        return jax.scipy.linalg.cho_solve(factor, moment)

    def crossed_for(strength):
        penalty = jnp.where(kinds == 0, 1e-3, strength[0])
        penalty = jnp.where(kinds == 2, strength[0] * strength[1], penalty)

        def without(f):
            weights = solve(gram - grams[f], moment - moments[f], penalty)
            return member[f][:, None] * (design @ weights)

        crossed = sum(without(f) for f in range(recipe.folds))
        # What the decisions gain over always going on, over all prices.
        return crossed, jnp.mean(jnp.where(crossed >= 0, target, 0.0)), penalty

    strengths = jnp.array([(r, c) for r in recipe.ridges for c in recipe.class_ridges])
    crossed, gains, penalties = jax.lax.map(crossed_for, strengths)
    best = jnp.argmax(gains)
    return solve(gram, moment, penalties[best]), crossed[best]


def _frontier(shared, params, crossed, predictions: Predictions) -> Frontier:
    """Turns prices into candidates: thresholds around 0 reach the costs between."""
    split, costs = predictions.val, predictions.costs
    values = outcome_values(split, costs)
    num_prices = len(crossed)
    scores, tables = [], []
    for m in range(num_prices):
        member = {**shared, **{name: leaf[m] for name, leaf in params.items()}}
        policy = Policy("lagrangian", member, np.zeros(len(costs), np.float32))
        scores.append(score_split(policy, split))
        levels = np.quantile(scores[m][:-1].max(axis=0), np.linspace(0, 1, 41))
        levels = np.unique(np.append(levels, 0.0))
        tables.append((levels, realise(scores[m], _same(levels, costs), values)[:, 1]))
    at_zero = [np.interp(0.0, levels, cost) for levels, cost in tables]
    at_zero = np.concatenate([[costs[-1]], at_zero, [costs[0]]])
    cuts, means = [], []
    for m, (levels, cost) in enumerate(tables):
        wanted = np.linspace(*np.sort(at_zero[[m, m + 2]]), 16)
        # Cost rises with the threshold; np.interp wants it strictly so.
        rising = np.maximum.accumulate(cost) + 1e-9 * costs[-1] * np.arange(len(cost))
        chosen = np.unique(np.append(np.interp(wanted, rising, levels), 0.0))
        rows = np.unique(_same(chosen, costs), axis=0)
        honest = np.concatenate([crossed[m], np.zeros_like(crossed[m][:1])])
        accuracy = realise(honest, rows, values)[:, 0]
        cuts.append(rows)
        means.append(np.stack([accuracy, realise(scores[m], rows, values)[:, 1]], 1))
    return frontier_of("lagrangian", shared, params, cuts, means, predictions)


def _same(levels: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns thresholds that are one level at all exits but the last, ``[M, K]``."""
    rows = np.repeat(levels[:, None], len(costs), axis=1).astype(np.float32)
    rows[:, -1] = -np.inf
    return rows
