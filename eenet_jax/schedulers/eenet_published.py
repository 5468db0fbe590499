"""EENet's scheduler as published: linear scores, alternating updates, its constants.

Faithful to the paper and to the four released schedulers (DESIGN section 3): the score
q_k is linear in [p ; max p ; 1 - normalised entropy ; past scores] and starts as max p;
an assignment network r_k with sigmoid units gives P by stick-breaking; scores and
assignments take turns at one loss. Faults of the code around it are not taken over:
gradients are zeroed between steps, the best trial is a copy, fitting and deciding chain
the same raw scores, and a score outside (0, 1) keeps its gradient.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.eenet_model import solve_chain
from eenet_jax.schedulers.expectations import expected, log_exit_distribution
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.scorers import linear_inputs

CLIP = 1e-3  # scores are kept this far from 0 and 1 in the losses


class Preset(NamedTuple):
    """Hyper-parameters: the loss weights and widths of the released schedulers.

    Attributes:
      restarts: Trials; for a budget one is taken by its validation accuracy.
      steps: Updates, in turn of scores and assignments.
      batch_size: Samples a step, at most.
      learning_rate: Of Adam. The published one works only because gradients add up.
      hidden_ratio: Units of an assignment network, in shares of its inputs.
      ce_weight: alpha_ce.
      cost_weight: alpha_cost.
      beta: Power of the scores in the KL term.
    """

    restarts: int = 10
    steps: int = 400
    batch_size: int = 512
    learning_rate: float = 3e-3
    hidden_ratio: float = 0.5
    ce_weight: float = 1e-3
    cost_weight: float = 1e-2
    beta: float = 1.0


PUBLISHED = Preset()


def fit(
    predictions: Predictions,
    targets: np.ndarray,
    key: jax.Array,
    preset: Preset = PUBLISHED,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Fits the published scheduler for every budget and trial at once.

    Args:
      predictions: The validation part is fitted.
      targets: Budgets on a scale where the first exit costs 0 and the last 1, ``[Q]``.
      key: Decides starts and batches.
      preset: Hyper-parameters.

    Returns:
      Parameters of the scorer "eenet_linear", leaves ``[Q * restarts, ...]``, and mean
      exit distributions ``[Q, restarts, K]``.
    """
    split, costs = predictions.val, predictions.costs
    num_exits, num_samples, num_classes = split.logits.shape
    size = num_classes + 2 + num_exits
    hidden = max(1, round(preset.hidden_ratio * size))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    shape, bound = (preset.restarts, num_exits, hidden), size**-0.5
    draw = functools.partial(rng.uniform, -bound, bound)
    starts = {
        "weights": np.zeros((preset.restarts, num_exits, size)),
        "w1": draw((*shape, size)),
        "b1": draw(shape),
        "w2": rng.uniform(-(hidden**-0.5), hidden**-0.5, shape),
        "b2": np.zeros(shape[:2]),
    }
    starts["weights"][..., num_classes] = 1.0
    starts = {name: leaf.astype(np.float32) for name, leaf in starts.items()}
    batch = (preset.steps, min(preset.batch_size, num_samples))
    rows = rng.integers(0, num_samples, batch, dtype=np.int32)
    params, shares = _fit_all(
        jax.jit(linear_inputs)(split.logits, split.confidence),
        jnp.asarray(split.correct, jnp.float32),
        jnp.asarray(costs / costs[-1], jnp.float32),
        jnp.asarray((costs[0] + targets * (costs[-1] - costs[0])) / costs[-1]),
        starts,
        rows,
        preset=preset,
    )
    weights = np.asarray(params["weights"]).reshape(-1, num_exits, size)
    bias = np.zeros(weights.shape[:2], np.float32)
    return {"weights": weights, "bias": bias}, np.asarray(shares, np.float64)


def losses(
    params: dict[str, jax.Array],
    inputs: jax.Array,
    correct: jax.Array,
    costs: jax.Array,
    budget: jax.Array,
    preset: Preset,
) -> tuple[jax.Array, jax.Array]:
    """Computes the published loss, and the assignment's part of it alone.

    (1/K) sum_k sum_n [P_nk / sum_m P_mk] BCE(q_nk, correct_nk)
    + alpha_ce KL(P || q^beta / sum q^beta) + alpha_cost |mean P.c - B| / B.

    Args:
      params: ``weights`` ``[K, D + K]`` of the scores; ``w1`` ``[K, H, D + K]``, ``b1``
        and ``w2`` ``[K, H]``, ``b2`` ``[K]`` of the assignment.
      inputs: ``linear_inputs`` of the logits, ``[K, B, D]``.
      correct: 0 or 1, ``[K, B]``.
      costs: ``[K]``.
      budget: In the unit of ``costs``.
      preset: Hyper-parameters.

    Returns:
      The loss, and P ``[K, B]``.
    """
    num_exits, _, size = inputs.shape
    weights = params["weights"]
    own = jnp.einsum("kbd,kd->kb", inputs, weights[:, :size])
    chain = jnp.eye(num_exits) - jnp.tril(weights[:, size:], -1)
    scores = solve_chain(chain, own)
    past = (
        params["w1"][..., size:]
        * jnp.tril(jnp.ones((num_exits, num_exits)), -1)[:, None]
    )
    hidden = jnp.einsum("kbd,khd->kbh", inputs, params["w1"][..., :size])
    hidden = hidden + jnp.einsum("jb,khj->kbh", scores, past) + params["b1"][:, None]
    gates = jnp.einsum("kbh,kh->kb", jax.nn.sigmoid(hidden), params["w2"])
    log_assignment = log_exit_distribution((gates + params["b2"][:, None])[:-1])
    assignment = jnp.exp(log_assignment)

    inside = jnp.clip(scores, CLIP, 1 - CLIP)
    # Clipped in value, not in gradient, so that a score can come back.
    right = scores + jax.lax.stop_gradient(inside - scores)
    entropy = -correct * jnp.log(right) - (1 - correct) * jnp.log1p(-right)
    of_exit = assignment / (jnp.sum(assignment, axis=1, keepdims=True) + 1e-6)
    log_right = preset.beta * jnp.log(right)
    log_right = log_right - jax.nn.logsumexp(log_right, axis=0, keepdims=True)
    total = (
        jnp.sum(of_exit * entropy) / num_exits
        + preset.ce_weight * expected(assignment, log_assignment - log_right)
        + preset.cost_weight * jnp.abs(expected(assignment, costs) - budget) / budget
    )
    return total, assignment


@functools.partial(jax.jit, static_argnames="preset")
def _fit_all(inputs, correct, costs, budgets, starts, rows, *, preset):
    """Fits all budgets from all starts, leaves ``[Q, restarts, ...]``."""
    tx = optax.adam(preset.learning_rate)

    def fit_one(budget, params):
        def of(part, rest, batch):
            given = inputs[:, batch], correct[:, batch], costs, budget, preset
            return losses({**part, **rest}, *given)[0]

        def turn(part, rest, state, batch):
            updates, state = tx.update(jax.grad(of)(part, rest, batch), state)
            return optax.apply_updates(part, updates), state

        def step(carry, batch):
            score, assign, of_score, of_assign = carry
            score, of_score = turn(score, assign, of_score, batch)
            assign, of_assign = turn(assign, score, of_assign, batch)
            return (score, assign, of_score, of_assign), None

        score = {"weights": params["weights"]}
        assign = {name: leaf for name, leaf in params.items() if name != "weights"}
        carry = (score, assign, tx.init(score), tx.init(assign))
        (score, assign, _, _), _ = jax.lax.scan(step, carry, rows)
        fitted = {**score, **assign}
        assignment = losses(fitted, inputs, correct, costs, budget, preset)[1]
        return fitted, assignment.mean(axis=1)

    over_trials = jax.vmap(fit_one, (None, 0))
    return jax.vmap(over_trials, (0, None))(budgets, starts)


def from_released(arrays: Mapping[str, np.ndarray]) -> Policy:
    """Makes a policy of a scheduler that was released with the published code.

    Args:
      arrays: For each exit k ``exit{k}_q_class`` ``[C]`` and ``exit{k}_q_feat``
        ``[2 + k]``: score weights on the class probabilities, and on max p, 1 -
        normalised entropy and past scores. Also ``thresholds`` ``[K]``. The
        assignment networks, which deciding does not need, may be there.

    Raises:
      UserError: If an array is missing.
    """
    names = [f"exit{k}_q_{part}" for k in range(len(arrays.get("thresholds", ())))
             for part in ("class", "feat")]  # fmt: skip
    missing = [name for name in names or ["thresholds"] if name not in arrays]
    if missing:
        raise UserError(f"not a released EENet scheduler: {missing[0]} is missing")
    num_exits, num_classes = len(arrays["thresholds"]), len(arrays["exit0_q_class"])
    weights = np.zeros((num_exits, num_classes + 2 + num_exits), np.float32)
    for k in range(num_exits):
        row = np.append(arrays[f"exit{k}_q_class"], arrays[f"exit{k}_q_feat"])
        weights[k, : len(row)] = row
    thresholds = np.append(arrays["thresholds"][:-1], -np.inf).astype(np.float32)
    params = {"weights": weights, "bias": np.zeros(num_exits, np.float32)}
    return Policy("eenet_linear", params, thresholds)
