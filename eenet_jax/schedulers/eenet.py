"""EENet's learned scheduler (WACV 2024): exit scores and an exit assignment.

At exit k, from x_k = [p ; confidences of p ; past scores], a linear score q_k estimates
whether the answer is right, and a small network r_k how many samples should stop there.
Fitting ties the two together for a budget; deciding needs q and thresholds only.

Our recipe for it differs from the published code where that is at fault: the score is a
logit (started at the log-odds of max p) under plain cross-entropy, so that gradients
never vanish; one score chain serves fitting and deciding; both parts get full
gradients of one loss; and all budgets and restarts are fitted in one program.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, build_frontier
from eenet_jax.schedulers.expectations import expected, log_exit_distribution
from eenet_jax.schedulers.scorers import affine, logit_inputs


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      restarts: Fits from different random starts, of which one is kept a budget.
      steps: Optimisation steps.
      batch_size: Samples a step, at most.
      learning_rate: Of Adam, peak of a cosine.
      weight_decay: L2 on the distance of the scores' weights from their start.
      hidden: Units of each assignment network.
      score_weight: Of the scores' cross-entropy.
      ce_weight: alpha_ce, of KL(P || q^beta / sum q^beta).
      cost_weight: alpha_cost, of the squared relative distance from the budget.
      beta: The power in the KL term.
    """

    restarts: int = 3
    steps: int = 200
    batch_size: int = 512
    learning_rate: float = 0.03
    weight_decay: float = 1e-3
    hidden: int = 16
    score_weight: float = 1.0
    ce_weight: float = 0.05
    cost_weight: float = 20.0
    beta: float = 1.0


DEFAULT_RECIPE = Recipe()


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
) -> Frontier:
    """Fits score and assignment for every budget at once.

    Args:
      predictions: The validation part is fitted.
      budgets: Mean costs per sample, ``[Q]``; those outside the cost range are moved to
        its ends.
      key: Decides starts and batches.
      recipe: Hyper-parameters.

    Returns:
      A frontier over all budgets and restarts.
    """
    costs, split = predictions.costs, predictions.val
    scale = max(costs[-1] - costs[0], 1e-12 * costs[-1])
    targets = np.unique(np.clip((budgets - costs[0]) / scale, 0.02, 0.98))
    num_exits, num_samples, num_classes = split.logits.shape
    sizes = (num_exits, num_classes, recipe.hidden)
    starts = [init_params(k, *sizes) for k in jax.random.split(key, recipe.restarts)]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    batch_size = min(recipe.batch_size, num_samples)
    rows = rng.integers(0, num_samples, (recipe.steps, batch_size), dtype=np.int32)
    params, shares = _fit_all(
        jnp.asarray(split.logits),
        jnp.asarray(split.correct, jnp.float32),
        jnp.asarray((costs - costs[0]) / scale, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        jax.tree.map(lambda *leaves: np.stack(leaves), *starts),
        rows,
        recipe=recipe,
    )
    shares = _spread(np.asarray(shares, np.float64), targets, costs)
    scores = {name: params[name] for name in ("weights", "bias")}
    return build_frontier("eenet", scores, shares, predictions)


def start_weights(num_exits: int, num_classes: int) -> np.ndarray:
    """Returns the weights ``[K, C + 2 + K]`` that score by the log-odds of max p."""
    weights = np.zeros((num_exits, num_classes + 2 + num_exits), np.float32)
    weights[:, num_classes] = 4.0  # see logit_inputs
    return weights


def init_params(
    key: jax.Array, num_exits: int, num_classes: int, hidden: int
) -> dict[str, np.ndarray]:
    """Returns scores that start as the log-odds of max p, and random assignments.

    Drawn with NumPy: compiling JAX's normal takes longer than the whole fit.
    """
    weights = start_weights(num_exits, num_classes)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    bound = (num_classes + 2) ** -0.5
    size = (num_exits, hidden, weights.shape[1])
    return {
        "weights": weights,
        "bias": np.zeros(num_exits, np.float32),
        "w1": (bound * rng.standard_normal(size)).astype(np.float32),
        "b1": np.zeros((num_exits, hidden), np.float32),
        "w2": (hidden**-0.5 * rng.standard_normal(size[:2])).astype(np.float32),
        "b2": np.zeros(num_exits, np.float32),
    }


def scores_and_gates(
    params: dict[str, jax.Array], logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the logits of all scores and of all assignments.

    Args:
      params: See ``init_params``.
      logits: ``[K, B, C]``.

    Returns:
      q ``[K, B]`` as ``Policy.scores`` gives them, and gate logits ``[K-1, B]``.
    """
    num_exits, batch, _ = logits.shape
    inputs = logit_inputs(logits)
    past = jnp.zeros((batch, num_exits))
    scores, gates = [], []
    for k in range(num_exits):
        score = affine(inputs[k], past, params["weights"][k], params["bias"][k])
        hidden = jnp.tanh(affine(inputs[k], past, params["w1"][k], params["b1"][k]))
        gates.append(jnp.sum(hidden * params["w2"][k][None], axis=1) + params["b2"][k])
        past = past.at[:, k].set(score)
        scores.append(score)
    return jnp.stack(scores), jnp.stack(gates[:-1])


def loss(
    params: dict[str, jax.Array],
    logits: jax.Array,
    correct: jax.Array,
    costs: jax.Array,
    budget: jax.Array,
    recipe: Recipe,
) -> jax.Array:
    """Computes the objective for one budget (DESIGN section 3, with our changes).

    score_weight (1/K) sum_k sum_n [P_nk / sum_m P_mk] CE(q_nk, correct_nk), with P
    held fixed there, as an exit is not to be chosen because its answer is surely wrong;
    plus E[error]; plus ce_weight KL(P || q^beta / sum q^beta); plus cost_weight times
    the squared distance of E[cost] from the budget.

    Args:
      params: See ``init_params``.
      logits: ``[K, B, C]``.
      correct: 0 or 1, ``[K, B]``.
      costs: Scaled so that the first exit costs 0 and the last 1, ``[K]``.
      budget: On the same scale.
      recipe: Hyper-parameters.
    """
    scores, gates = scores_and_gates(params, logits)
    log_assignment = log_exit_distribution(gates)
    assignment = jnp.exp(log_assignment)

    fixed = jax.lax.stop_gradient(assignment)
    weights = fixed / (jnp.sum(fixed, axis=1, keepdims=True) + 1e-6)
    entropy = optax.sigmoid_binary_cross_entropy(scores, correct)
    score_loss = jnp.sum(weights * entropy) / len(scores)

    log_right = recipe.beta * jax.nn.log_sigmoid(scores)
    log_right = log_right - jax.nn.logsumexp(log_right, axis=0, keepdims=True)
    divergence = expected(assignment, log_assignment - log_right)

    over = expected(assignment, costs) - budget
    start = start_weights(*logits.shape[::2])
    decay = jnp.sum((params["weights"] - start) ** 2)
    return (
        recipe.score_weight * score_loss
        + expected(assignment, 1 - correct)
        + recipe.ce_weight * divergence
        + recipe.cost_weight * over**2
        + recipe.weight_decay * decay
    )


@functools.partial(jax.jit, static_argnames="recipe")
def _fit_all(
    logits: jax.Array,
    correct: jax.Array,
    costs: jax.Array,
    targets: jax.Array,
    starts: dict[str, jax.Array],
    rows: jax.Array,
    *,
    recipe: Recipe,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Fits all budgets from all starts; returns the best start's params and shares.

    ``starts`` has leaves ``[restarts, ...]``; ``rows`` are the batches, ``[steps, B]``.
    """
    tx = optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, recipe.steps))

    def fit_one(target, params):
        def step(carry, batch):
            params, opt_state = carry
            grads = jax.grad(loss)(
                params, logits[:, batch], correct[:, batch], costs, target, recipe
            )
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), rows)
        final = loss(params, logits, correct, costs, target, recipe)
        gates = scores_and_gates(params, logits)[1]
        shares = jnp.exp(log_exit_distribution(gates)).mean(axis=1)
        return params, shares, final

    over_restarts = jax.vmap(fit_one, (None, 0))
    params, shares, final = jax.vmap(over_restarts, (0, None))(targets, starts)
    best = jnp.argmin(jnp.where(jnp.isnan(final), jnp.inf, final), axis=1)
    budget = jnp.arange(len(targets))
    return jax.tree.map(lambda leaf: leaf[budget, best], (params, shares))


def _spread(
    shares: np.ndarray, targets: np.ndarray, costs: np.ndarray, count: int = 60
) -> list[np.ndarray]:
    """Moves each budget's shares to planned costs between its neighbours' budgets.

    Args:
      shares: Mean exit distribution of each budget's fit, ``[Q, K]``.
      targets: The budgets on a scale from 0 to 1, rising, ``[Q]``.
      costs: ``[K]``.
      count: Planned costs for each budget.

    Returns:
      For each budget ``[count, K]``: mixed with "all leave first" to cost less, with
      "all leave last" to cost more.
    """
    ends = np.concatenate([[0.0], targets, [1.0]])
    spread = []
    for row, low, high in zip(shares, ends[:-2], ends[2:], strict=True):
        row = row / row.sum()
        wanted = costs[0] + np.linspace(low, high, count) * (costs[-1] - costs[0])
        planned = row @ costs
        less = np.clip((wanted - costs[0]) / max(planned - costs[0], 1e-12), 0, 1)
        more = np.clip((wanted - planned) / max(costs[-1] - planned, 1e-12), 0, 1)
        mixed = less[:, None] * row + (1 - less)[:, None] * np.eye(len(costs))[0]
        mixed = (1 - more)[:, None] * mixed + more[:, None] * np.eye(len(costs))[-1]
        spread.append(mixed)
    return spread
