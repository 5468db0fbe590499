"""LEENet: one linear gate on each early exit's features, trained for a grid of alphas.

alpha in [0, 1] weighs cost against error in the loss. One fit trains the gates of all
alphas in one program, and answers every budget.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import frontier_of, outcome_values
from eenet_jax.schedulers.expectations import exit_distribution, expected
from eenet_jax.schedulers.feature_gates import OPEN
from eenet_jax.schedulers.folds import draw_folds, rows_outside
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.price_frontier import same_thresholds, thresholds_between
from eenet_jax.schedulers.thresholds import realise


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


def gate_policy(kind: str, weights: Sequence[np.ndarray], biases: np.ndarray) -> Policy:
    """Returns the policy of trained gates.

    Args:
      kind: What they read, one of ``feature_gates.INPUTS``.
      weights: For each early exit float32 ``[F_k]``.
      biases: float32 ``[K - 1]``.
    """
    params = {f"weight_{k}": weight for k, weight in enumerate(weights)}
    thresholds = np.array([OPEN] * len(weights) + [-np.inf], np.float32)
    return Policy(f"gate_{kind}", {**params, "bias": biases}, thresholds)


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      alphas: How many, evenly from 0 to 1; as many again are put where costs change.
      decays: Strengths of the L2 penalty tried, of which cross-validation takes one.
      folds: Of the validation part.
      steps: Of Adam.
      batch_size: Samples a step, at most.
      learning_rate: Of weights of standardised inputs; peak of a cosine.
    """

    alphas: int = 21
    decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    folds: int = 2
    steps: int = 300
    batch_size: int = 512
    learning_rate: float = 0.05


DEFAULT_RECIPE = Recipe()


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Frontier:
    """Trains gates for a grid of alphas, twice, which together serve every budget.

    Cost as a function of alpha is a cliff: the published grid, even in alpha, leaves
    most costs out. So a second grid stands where the first one's costs changed. What
    is left between is reached by other thresholds than one half.

    Args:
      predictions: With features; the validation part is fitted.
      budgets: Not used.
      key: Of the folds and the batches.
      recipe: Hyper-parameters.
    """
    del budgets
    values = outcome_values(predictions.val, _charged(predictions))
    solve = _solver(predictions, key, recipe)
    alphas = np.linspace(0, 1, recipe.alphas)
    first = solve(alphas)
    more = _where_costs_change(alphas, _outcomes(first[1], values)[:, 1])
    both = jax.tree.map(lambda *pair: np.concatenate(pair), first, solve(more))
    order = np.argsort(np.concatenate([alphas, more]), kind="stable")
    params, crossed = jax.tree.map(lambda leaf: leaf[order], both)
    return _frontier(params, _outcomes(crossed, values), predictions)


def fit_alpha(
    predictions: Predictions,
    alpha: float,
    *,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Policy:
    """Trains the gates of one alpha, as the original does.

    Args:
      predictions: With features; the validation part is fitted.
      alpha: In [0, 1]: the weight of cost.
      key: Of the folds and the batches.
      recipe: Hyper-parameters.
    """
    params, _ = _solver(predictions, key, recipe)(np.array([alpha]))
    bias = params.pop("bias")[0]
    weights = [params[f"weight_{k}"][0] for k in range(len(bias))]
    return gate_policy(predictions.gate_inputs, weights, bias)


def _solver(predictions: Predictions, key: jax.Array, recipe: Recipe):
    """Returns ``alphas [A] -> (parameters, crossed scores)``; see ``_solve``."""
    split, costs = predictions.val, _charged(predictions)
    scale = max(np.ptp(costs), 1e-12 * costs.max())
    inputs, shift, size = _standardised(split.features[: len(costs) - 1])
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


def _charged(predictions: Predictions) -> np.ndarray:
    """Returns what leaving at each exit costs where gates decide, ``[K]``."""
    early = predictions.val.features[: len(predictions.costs) - 1]
    weights = [np.zeros(f.shape[1], np.float32) for f in early]
    policy = gate_policy(predictions.gate_inputs, weights, np.zeros(len(weights)))
    return policy.charges(*predictions.prices)


def _standardised(features: Sequence[np.ndarray]):
    """Returns inputs of mean 0 and deviation 1, and the means and deviations."""
    shift = [f.mean(axis=0) for f in features]
    size = [np.maximum(f.std(axis=0), 1e-6) for f in features]
    inputs = [(f - m) / s for f, m, s in zip(features, shift, size, strict=True)]
    return inputs, shift, size


@functools.partial(jax.jit, static_argnames="recipe")
def _solve(inputs, losses, costs, member, batches, alphas, *, recipe):
    """Trains gates for all alphas, ``[A]``, with the best decay.

    Returns the parameters, leaves ``[A, ...]``, and the scores of the samples by gates
    that were trained on other folds, ``[A, K - 1, N]``.
    """
    schedule = optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps)
    tx = optax.adam(schedule)

    def gates(params, inputs):
        logits = [x @ w for x, w in zip(inputs, params["weights"], strict=True)]
        return jnp.stack(logits) + params["bias"][:, None]

    def train(decay, alpha, batches):
        start = {
            "weights": [jnp.zeros(x.shape[1]) for x in inputs],
            "bias": jnp.zeros(len(inputs)),
        }

        def loss(params, rows):
            shown = [x[rows] for x in inputs]
            found = gate_loss(gates(params, shown), losses[:, rows], costs, alpha)
            return found.loss + decay * optax.tree.norm(params["weights"], squared=True)

        def step(carry, rows):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params, rows), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), batches)
        return params

    decays = jnp.array(recipe.decays)
    of_alphas = jax.vmap(train, in_axes=(None, 0, None))
    of_all = jax.vmap(of_alphas, in_axes=(0, None, None))  # [D, A, ...]
    score = jax.vmap(jax.vmap(lambda params: gates(params, inputs)))
    outside = jax.lax.map(
        lambda rows: score(of_all(decays, alphas, rows)), batches[:-1]
    )
    crossed = jnp.einsum("fdakn,fn->dakn", outside, member)

    def honest(logits, alpha):
        return gate_loss(logits, losses, costs, alpha).loss

    quality = jax.vmap(jax.vmap(honest), in_axes=(0, None))(crossed, alphas)
    best = jnp.argmin(quality.mean(axis=1))
    params = of_alphas(decays[best], alphas, batches[-1])
    return params, jax.nn.sigmoid(crossed[best])


def _outcomes(crossed: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns accuracy and cost of each alpha on samples not fitted to, ``[A, 2]``."""
    rows = same_thresholds(np.array([OPEN]), values.shape[1])
    whole = np.concatenate([crossed, np.zeros_like(crossed[:, :1])], axis=1)
    return np.concatenate([realise(scores, rows, values) for scores in whole])


def _where_costs_change(alphas: np.ndarray, spent: np.ndarray) -> np.ndarray:
    """Returns as many alphas again, evenly in the costs that they lead to."""
    falling = np.minimum.accumulate(spent)
    falling = falling - 1e-9 * spent.max() * np.arange(len(spent))
    wanted = np.linspace(falling[0], falling[-1], len(alphas) + 2)[1:-1]
    return np.interp(-wanted, -falling, alphas)


def _frontier(
    params: dict[str, np.ndarray], honest: np.ndarray, predictions: Predictions
) -> Frontier:
    """Makes candidates of gates for rising alphas.

    Args:
      params: Leaves ``[A, ...]``.
      honest: Accuracy and cost of each alpha on samples not fitted to, ``[A, 2]``.
      predictions: The validation part calibrates.
    """
    scorer = f"gate_{predictions.gate_inputs}"
    split, costs = predictions.val, _charged(predictions)
    values = outcome_values(split, costs)
    unset = same_thresholds(np.zeros(1), len(costs))[0]
    members = [
        {name: leaf[a] for name, leaf in params.items()} for a in range(len(honest))
    ]
    scores = [score_split(Policy(scorer, m, unset), split) for m in members]
    cuts = thresholds_between(scores, values, float(OPEN))
    # What accuracy a cost buys, as measured on samples that gates were not fitted to.
    order = np.argsort(honest[:, 1])
    reached = np.concatenate([costs[:1], honest[order, 1], costs[-1:]])
    ends = split.correct[[0, -1]].mean(axis=1)
    accuracy = np.concatenate([ends[:1], honest[order, 0], ends[1:]])
    means = []
    for m, chosen in enumerate(cuts):
        cost = realise(scores[m], chosen, values)[:, 1]
        means.append(np.stack([np.interp(cost, reached, accuracy), cost], axis=1))
    return frontier_of(scorer, {}, params, cuts, means, predictions)
