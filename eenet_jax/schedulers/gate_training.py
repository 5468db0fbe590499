"""LEENet's gates: their loss, and their training for many alphas in one program."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.predictions import Split
from eenet_jax.schedulers.expectations import exit_distribution, expected
from eenet_jax.schedulers.folds import draw_folds, rows_outside

Solver = Callable[[np.ndarray], tuple[dict[str, np.ndarray], np.ndarray]]


class GateLoss(NamedTuple):
    """The loss and its two weighted parts, which sum to it; scalars."""

    loss: jax.Array
    error: jax.Array
    cost: jax.Array


def gate_loss(
    gate_logits: jax.Array, losses: jax.Array, costs: jax.Array, alpha: jax.Array
) -> GateLoss:
    """Computes (1 - alpha) E[loss] + alpha E[cost] over where samples leave.

    The expectation is over P_k = g_k prod_{j<k} (1 - g_j), the rest going to the last
    exit, with gates g = sigmoid(logits) (BACKBONES 2.1). In log space, so gradients are
    finite where gates are 0 or 1.

    Args:
      gate_logits: ``[K - 1, N]``.
      losses: What each exit's answer loses, say its cross-entropy, ``[K, N]``.
      costs: Of leaving at each exit, ``[K]``; published from 0 to 1.
      alpha: In [0, 1]: the weight of cost.

    Returns:
      Means over the N samples.
    """
    exits = exit_distribution(gate_logits)
    error = (1 - alpha) * expected(exits, losses)
    cost = alpha * expected(exits, costs)
    return GateLoss(error + cost, error, cost)


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      alphas: How many, evenly from 0 to 1; as many again are put where costs change.
      penalties: Pairs of the strength of an L2 penalty and the share of inputs that are
        dropped in training, of which cross-validation takes one.
      folds: Of the validation part.
      steps: Of Adam.
      batch_size: Samples a step, at most.
      learning_rate: Of weights of standardised inputs; peak of a cosine.
    """

    alphas: int = 21
    penalties: tuple[tuple[float, float], ...] = (
        (1e-4, 0.0),
        (1e-3, 0.0),
        (1e-2, 0.0),
        (1e-3, 0.5),
    )
    folds: int = 2
    steps: int = 300
    batch_size: int = 512
    learning_rate: float = 0.05


DEFAULT_RECIPE = Recipe()


def solver(
    inputs: Sequence[np.ndarray],
    split: Split,
    costs: np.ndarray,
    *,
    key: jax.Array,
    recipe: Recipe,
) -> Solver:
    """Returns what trains gates for alphas ``[A]``, all in one program.

    It returns the gates' parameters, leaves ``[A, ...]``, and scores of all samples by
    gates that were trained on other folds, ``[A, K - 1, N]``.

    Args:
      inputs: What the gate of each early exit reads, ``[N, F_k]``.
      split: The samples.
      costs: Of leaving at each exit, ``[K]``.
      key: Of the folds, the batches and what is dropped.
      recipe: Hyper-parameters.
    """
    scale = max(np.ptp(costs), 1e-12 * costs.max())
    inputs, shift, size = _standardised(inputs)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    fold = draw_folds(rng, split.num_samples, recipe.folds)
    rows = [*rows_outside(fold, recipe.folds), np.arange(split.num_samples)]
    batch = (recipe.steps, min(recipe.batch_size, split.num_samples))
    labels = np.broadcast_to(split.labels, split.logits.shape[:2])
    given = (
        inputs,
        optax.softmax_cross_entropy_with_integer_labels(split.logits, labels),
        jnp.asarray((costs - costs[0]) / scale, jnp.float32),
        (fold == np.arange(recipe.folds)[:, None]).astype(np.float32),
        np.stack([rng.choice(of_fold, batch) for of_fold in rows]),
        key,
    )

    def solve(alphas: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        found = _solve(*given, jnp.asarray(alphas, jnp.float32), recipe=recipe)
        params, crossed = jax.device_get(found)
        pairs = zip(params["weights"], size, strict=True)
        weights = [weight / deviation for weight, deviation in pairs]
        moved = [w @ m for w, m in zip(weights, shift, strict=True)]
        raw = {f"weight_{k}": weight for k, weight in enumerate(weights)}
        return {**raw, "bias": params["bias"] - np.stack(moved, axis=1)}, crossed

    return solve


def _standardised(features: Sequence[np.ndarray]):
    """Returns inputs of mean 0 and deviation 1, and the means and deviations."""
    shift = [f.mean(axis=0) for f in features]
    size = [np.maximum(f.std(axis=0), 1e-6) for f in features]
    inputs = [(f - m) / s for f, m, s in zip(features, shift, size, strict=True)]
    return inputs, shift, size


@functools.partial(jax.jit, static_argnames="recipe")
def _solve(inputs, losses, costs, member, batches, key, alphas, *, recipe):
    """Trains gates for all alphas, ``[A]``, with the best penalty.

    Returns the parameters, leaves ``[A, ...]``, and the scores of the samples by gates
    that were trained on other folds, ``[A, K - 1, N]``.
    """
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    tx = optax.adam(schedule)

    def gates(params, inputs):
        logits = [x @ w for x, w in zip(inputs, params["weights"], strict=True)]
        return jnp.stack(logits) + params["bias"][:, None]

    def drop(x, share, key):
        if not any(dropout for _, dropout in recipe.penalties):
            return x
        kept = jax.random.uniform(key, x.shape) >= share
        return jnp.where(kept, x / (1 - share), 0.0)

    def train(penalty, alpha, batches):
        decay, share = penalty
        start = {
            "weights": [jnp.zeros(x.shape[1]) for x in inputs],
            "bias": jnp.zeros(len(inputs)),
        }

        def loss(params, rows, key):
            keys = jax.random.split(key, len(inputs))
            shown = [drop(x[rows], share, k) for x, k in zip(inputs, keys, strict=True)]
            found = gate_loss(gates(params, shown), losses[:, rows], costs, alpha)
            return found.loss + decay * optax.tree.norm(params["weights"], squared=True)

        def step(carry, given):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, *given), state, params)
            return (optax.apply_updates(params, updates), state), None

        keys = jax.random.split(key, len(batches))
        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), (batches, keys))
        return params

    penalties = jnp.array(recipe.penalties)
    of_alphas = jax.vmap(train, in_axes=(None, 0, None))
    of_all = jax.vmap(of_alphas, in_axes=(0, None, None))  # [P, A, ...]
    score = jax.vmap(jax.vmap(lambda params: gates(params, inputs)))
    outside = jax.lax.map(
        lambda rows: score(of_all(penalties, alphas, rows)), batches[:-1]
    )
    crossed = jnp.einsum("fpakn,fn->pakn", outside, member)

    def honest(logits, alpha):
        return gate_loss(logits, losses, costs, alpha).loss

    quality = jax.vmap(jax.vmap(honest), in_axes=(0, None))(crossed, alphas)
    best = jnp.argmin(quality.mean(axis=1))
    params = of_alphas(penalties[best], alphas, batches[-1])
    return params, jax.nn.sigmoid(crossed[best])
