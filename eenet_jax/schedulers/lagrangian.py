"""The default scheduler: stop where it is worth more than going on, at a price of cost.

For a grid of prices lambda it finds policies that maximise accuracy - lambda * cost,
which together are the whole frontier. An exit is taken where the advantage of stopping
is at least 0; the advantage is linear in confidence features of the exits so far, in
random tanh units of them, and in the class answered (``confidence.advantage``). Two
methods find it, optimal stopping (``stopping``) and gates by gradient (``gates``). Both
advantages are of one form, so they can be averaged, and their mean generalises best on
most files. Cross-validation chooses another mixture only where it is surely better.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import gates, stopping
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.confidence import (
    all_features,
    dense_design,
    design_params,
    num_features,
)
from eenet_jax.schedulers.folds import draw_folds, rows_outside
from eenet_jax.schedulers.price_frontier import price_frontier
from eenet_jax.schedulers.settings import Variant

# Share of the gates in each mixture; optimal stopping has the rest. The first is taken
# unless another is surely better.
MIXTURES = {"combined": (1 / 3,), "stopping": (0.0,), "gates": (1.0,)}
SURE = 3.0  # standard errors of the difference
COARSE = 3  # every so many prices are cross-validated


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      prices: Prices lambda, in accuracy per cost range, as many as policies.
      lowest: The lowest price.
      highest: The highest.
      units: Random tanh units an exit.
      folds: Folds of the validation part.
      ridges: Strengths tried, of which each exit takes its best.
      class_ridges: Factors tried on top of it for the weights of classes; the first is
        the gates' too.
      width: Of the gates (see ``gates.fit``).
      decay: Likewise.
      steps: Of the gates' descent.
      batch_size: Samples a step, at most.
      learning_rate: Of the gates, in widths.
    """

    prices: int = 40
    lowest: float = 3e-3
    highest: float = 3.0
    units: int = 128
    folds: int = 5
    ridges: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
    class_ridges: tuple[float, ...] = (1.0, 10.0)
    width: float = 0.1
    decay: float = 1.0
    steps: int = 200
    batch_size: int = 512
    learning_rate: float = 0.1


DEFAULT_RECIPE = Recipe()
_OF_GATES = ("width", "decay", "steps", "batch_size", "learning_rate")
VARIANTS = {
    "": Variant(DEFAULT_RECIPE),
    "combined": Variant(DEFAULT_RECIPE),
    "stopping": Variant(DEFAULT_RECIPE, _OF_GATES),
    "gates": Variant(DEFAULT_RECIPE),
}


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    variant: str | None = None,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Frontier:
    """Fits advantages for a grid of prices, which serves every budget.

    Args:
      predictions: The validation part is fitted.
      budgets: Not used.
      key: Of the random units, the folds and the batches.
      variant: "combined", "stopping" or "gates", not to be chosen but taken.
      recipe: Hyper-parameters.
    """
    del budgets
    split, costs = predictions.val, predictions.costs
    scale = max(costs[-1] - costs[0], 1e-12 * costs[-1])
    prices = np.geomspace(recipe.lowest, recipe.highest, recipe.prices)
    mixtures = MIXTURES[variant] if variant else sum(MIXTURES.values(), ())
    fitted = _fit_prices(
        jnp.asarray(split.logits),
        split.confidence,
        jnp.asarray(split.correct, jnp.float32),
        jnp.asarray((costs - costs[0]) / scale, jnp.float32),
        jnp.asarray(prices, jnp.float32),
        _draws(key, *split.logits.shape[:2], recipe),
        mixtures=mixtures,
        recipe=recipe,
    )
    shared, params, crossed = jax.device_get(fitted)
    rows = np.arange(recipe.prices)[::COARSE]
    return price_frontier(shared, params, prices / scale, crossed, rows, predictions)


def _draws(key: jax.Array, num_exits: int, num_samples: int, recipe: Recipe):
    """Draws units, offsets, folds and batches; with NumPy, as in eenet_model.py."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    size = (num_exits - 1, num_features(num_exits), recipe.units)
    fold = draw_folds(rng, num_samples, recipe.folds)
    batch = (recipe.steps, min(recipe.batch_size, num_samples))
    rows = [*rows_outside(fold, recipe.folds), np.arange(num_samples)]
    return {
        "units": rng.standard_normal(size).astype(np.float32),
        "offsets": rng.standard_normal(size[::2]).astype(np.float32),
        "member": (fold == np.arange(recipe.folds)[:, None]).astype(np.float32),
        "batches": np.stack([rng.choice(of_fold, batch) for of_fold in rows]),
    }


@functools.partial(jax.jit, static_argnames=("mixtures", "recipe"))
def _fit_prices(logits, confidence, correct, costs, prices, draws, *, mixtures, recipe):
    """Fits optimal stopping, gates and their best mixture for all prices.

    Returns the shared parameters, the mixture's for each price (leaves
    ``[L, K-1, ...]``), and its advantages for the samples from folds without them, for
    every ``COARSE``-th price, ``[L', K-1, N]``.
    """
    shown = all_features(logits, confidence)
    shared = design_params(shown.x, draws["units"], draws["offsets"])
    stop = correct[..., None] - prices[None, None] * costs[:, None, None]  # [K, N, L]
    strengths = [(r, c) for r in recipe.ridges for c in recipe.class_ridges]
    member = draws["member"]
    stopped = stopping.fit(shared, shown, stop, member, jnp.array(strengths))
    crossed = stopped.crossed[::COARSE]
    if not any(mixtures):
        return shared, stopped.params, crossed

    exits = jnp.arange(len(shown.x))
    dense = jax.vmap(functools.partial(dense_design, shared))(exits, shown.x)

    def fit_gates(every, batches, weights):
        one = functools.partial(
            gates.fit, data=(dense, shown.answers, correct), costs=costs,
            width=recipe.width, decay=recipe.decay,
            class_decay=recipe.decay * recipe.class_ridges[0], batches=batches,
            learning_rate=recipe.learning_rate,
        )  # fmt: skip
        params = jax.tree.map(lambda leaf: leaf[::every], stopped.params)
        start = gates.log_odds_start(params, dense[..., 1], stop[..., ::every], weights)
        return jax.vmap(one)(start, prices[::every])

    of_prices = jax.vmap(lambda params: gates.scores(params, dense, shown.answers))

    def without(fold):
        inside, batches = fold
        return of_prices(fit_gates(COARSE, batches, 1 - inside))

    gated = jax.lax.map(without, (member, draws["batches"][:-1]))
    gated = jnp.einsum("flkn,fn->lkn", gated, member)
    fitted = fit_gates(1, draws["batches"][-1], jnp.ones(member.shape[1]))
    # Advantages of the two are of different size; each counts by its own.
    both = (stopped.params, fitted)
    sizes = [jnp.sqrt(jnp.mean(of_prices(p) ** 2, axis=(1, 2))) + 1e-12 for p in both]

    def mix(share, of_stopping, of_gates, every=1):
        weights = [(1 - share) / sizes[0][::every], share / sizes[1][::every]]
        wide = [w.reshape(-1, *[1] * (of_gates.ndim - 1)) for w in weights]
        return wide[0] * of_stopping + wide[1] * of_gates

    stop = stop[..., ::COARSE]
    mixed = [mix(share, crossed, gated, COARSE) for share in mixtures]
    values = jnp.stack([_gain(each, stop, costs, crossed) for each in mixed])
    better = values - values[:1]  # [M, N]
    error = better.std(axis=1) / jnp.sqrt(better.shape[1])
    sure = jnp.where(better.mean(axis=1) > SURE * error, better.mean(axis=1), 0.0)
    best = jnp.argmax(sure)
    share = jnp.array(mixtures)[best]
    params = jax.tree.map(functools.partial(mix, share), *both)
    return shared, params, jnp.stack(mixed)[best]


def _gain(advantages, stop, costs, reference):
    """What each sample's decisions are worth over all prices, ``[L, K-1, N] -> [N]``.

    Prices count by the stretch of costs where they rule, as ``reference`` has it.
    """
    spent = _value(reference, jnp.broadcast_to(costs[:, None, None], stop.shape))
    weights = jnp.abs(jnp.gradient(spent.mean(axis=1)))
    return weights @ _value(advantages, stop) / (jnp.sum(weights) + 1e-12)


def _value(advantages, values):
    """Values at the exits taken, from ``[L, K-1, N]`` and ``[K, N, L]``: ``[L, N]``."""
    values = jnp.moveaxis(values, -1, 0)
    taken = values[:, -1]
    for k in range(advantages.shape[1] - 1, -1, -1):
        taken = jnp.where(advantages[:, k] >= 0, values[:, k], taken)
    return taken
