"""EENet's scores and assignments, their loss, and its descent (see eenet.py)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax.schedulers.expectations import expected, log_exit_distribution


class Recipe(NamedTuple):
    """Hyper-parameters of the fit.

    Attributes:
      folds: Scores are fitted without each of so many parts of the samples in turn.
      score_steps: Steps of the scores' own fit, at most.
      decays: L2 on the distance of the scores' weights from their start; tried there.
      restarts: Fits for a budget, from different random assignments.
      steps: Steps of scores and assignments together, at most.
      check_every: Steps between two looks at the samples left out.
      batch_size: Samples a step, at most.
      learning_rate: Of Adam, peak of a cosine.
      hidden: Units of each assignment network.
      score_weight: Of the scores' cross-entropy.
      ce_weight: alpha_ce, of KL(P || q^beta / sum q^beta).
      cost_weight: alpha_cost, of the squared relative distance from the budget.
      beta: The power in the KL term.
      pull: L2 on the distance of the scores' weights from their own fit.
    """

    folds: int = 5
    score_steps: int = 400
    decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    restarts: int = 10
    steps: int = 200
    check_every: int = 20
    batch_size: int = 512
    learning_rate: float = 0.03
    hidden: int = 16
    score_weight: float = 1.0
    ce_weight: float = 0.05
    cost_weight: float = 20.0
    beta: float = 1.0
    pull: float = 1e-2


DEFAULT_RECIPE = Recipe()


def start_weights(num_exits: int, num_classes: int) -> np.ndarray:
    """Returns the weights ``[K, C + 2 + K]`` that score by the log-odds of max p."""
    weights = np.zeros((num_exits, num_classes + 2 + num_exits), np.float32)
    weights[:, num_classes] = 4.0  # see scorers.logit_inputs
    return weights


def init_assignment(
    rng: np.random.Generator, num_exits: int, num_classes: int, hidden: int
) -> dict[str, np.ndarray]:
    """Returns random assignment networks.

    Drawn with NumPy: compiling JAX's normal takes longer than the whole fit.
    """
    size = num_classes + 2 + num_exits
    params = {
        "w1": size**-0.5 * rng.standard_normal((num_exits, hidden, size)),
        "b1": np.zeros((num_exits, hidden)),
        "w2": hidden**-0.5 * rng.standard_normal((num_exits, hidden)),
        "b2": np.zeros(num_exits),
    }
    return {name: leaf.astype(np.float32) for name, leaf in params.items()}


def scores_and_gates(
    params: dict[str, jax.Array], inputs: jax.Array, fixed: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Computes the logits of all scores and of all assignments.

    Each score is linear in the earlier ones, so all of them together solve a triangular
    system; a loop over exits would be slow to compile.

    Args:
      params: ``weights`` ``[K, D + K]`` and ``bias`` ``[K]`` of the scores; ``w1``
        ``[K, H, D + K]``, ``b1`` and ``w2`` ``[K, H]`` and ``b2`` ``[K]`` of
        the assignment.
      inputs: ``logit_inputs`` of the logits, ``[K, B, D]``.
      fixed: Scores ``[K, B]`` that stand for the learned ones, or None.

    Returns:
      q ``[K, B]`` as ``Policy.scores`` gives them, and gate logits ``[K-1, B]``.
    """
    num_exits, _, size = inputs.shape
    scores = chained_scores(params, inputs) if fixed is None else fixed
    own, past = params["w1"][..., :size], params["w1"][..., size:]
    earlier = jnp.tril(jnp.ones((num_exits, num_exits)), -1)[:, None]
    hidden = jnp.einsum("kbd,khd->kbh", inputs, own)
    hidden = hidden + jnp.einsum("jb,khj->kbh", scores, past * earlier)
    hidden = jnp.tanh(hidden + params["b1"][:, None])
    gates = jnp.einsum("kbh,kh->kb", hidden, params["w2"]) + params["b2"][:, None]
    return scores, gates[:-1]


def chained_scores(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    """Computes the scores, ``[K, B, D] -> [K, B]``; see ``scores_and_gates``."""
    num_exits, _, size = inputs.shape
    weights = params["weights"]
    own = jnp.einsum("kbd,kd->kb", inputs, weights[:, :size]) + params["bias"][:, None]
    chain = jnp.eye(num_exits) - jnp.tril(weights[:, size:], -1)
    return solve_chain(chain, own)


def solve_chain(chain: jax.Array, own: jax.Array) -> jax.Array:
    """Solves ``chain @ scores = own`` for a unit lower triangular ``[K, K]`` chain.

    By its inverse: with a batch at its right side, a solve on CPUs is left to a BLAS
    whose threads wait on other programs.
    """
    solve = functools.partial(jax.scipy.linalg.solve_triangular, lower=True)
    return solve(chain, jnp.eye(len(chain)), unit_diagonal=True) @ own


def loss(
    params: dict[str, jax.Array],
    inputs: jax.Array,
    correct: jax.Array,
    costs: jax.Array,
    budget: jax.Array,
    recipe: Recipe,
    start: jax.Array,
    fixed: jax.Array | None = None,
) -> jax.Array:
    """Computes the objective for one budget (DESIGN section 3, with our changes).

    score_weight (1/K) sum_k sum_n [P_nk / sum_m P_mk] CE(q_nk, correct_nk), with P
    held fixed there, as an exit is not to be chosen because its answer is surely wrong;
    plus E[error]; plus ce_weight KL(P || q^beta / sum q^beta); plus cost_weight times
    the squared distance of E[cost] from the budget.

    Args:
      params: See ``scores_and_gates``.
      inputs: ``[K, B, D]``.
      correct: 0 or 1, ``[K, B]``.
      costs: Scaled so that the first exit costs 0 and the last 1, ``[K]``.
      budget: On the same scale.
      recipe: Hyper-parameters.
      start: Weights that the scores are pulled to, ``[K, D + K]``.
      fixed: See ``scores_and_gates``.
    """
    scores, gates = scores_and_gates(params, inputs, fixed)
    log_assignment = log_exit_distribution(gates)
    assignment = jnp.exp(log_assignment)

    held = jax.lax.stop_gradient(assignment)
    weights = held / (jnp.sum(held, axis=1, keepdims=True) + 1e-6)
    entropy = optax.sigmoid_binary_cross_entropy(scores, correct)
    score_loss = jnp.sum(weights * entropy) / len(scores)

    log_right = recipe.beta * jax.nn.log_sigmoid(scores)
    log_right = log_right - jax.nn.logsumexp(log_right, axis=0, keepdims=True)
    divergence = expected(assignment, log_assignment - log_right)

    over = expected(assignment, costs) - budget
    return (
        recipe.score_weight * score_loss
        + expected(assignment, 1 - correct)
        + recipe.ce_weight * divergence
        + recipe.cost_weight * over**2
        + recipe.pull * jnp.sum((params["weights"] - start) ** 2)
    )


def _descend(
    loss: Callable[[Any, jax.Array], jax.Array],
    judge: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    batches: jax.Array,
    held: jax.Array,
    recipe: Recipe,
) -> tuple[Any, jax.Array]:
    """Minimises by Adam; returns what ``judge`` liked best, and its value.

    ``loss`` and ``judge`` take parameters and rows of samples: ``batches``
    ``[steps, B]``, and those held out.
    """
    tx = optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, len(batches)))

    def step(carry, rows):
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss)(params, rows), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    def leg(carry, batches):
        state, best, lowest = carry
        state, _ = jax.lax.scan(step, state, batches)
        now = judge(state[0], held)
        better = now < lowest  # never for NaN
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), state[0], best)
        return (state, best, jnp.where(better, now, lowest)), None

    legs = batches.reshape(-1, recipe.check_every, batches.shape[1])
    start = ((params, tx.init(params)), params, judge(params, held))
    (_, best, lowest), _ = jax.lax.scan(leg, start, legs)
    return best, lowest


@functools.partial(jax.jit, static_argnames="recipe")
def fit_scores(
    inputs: jax.Array,
    correct: jax.Array,
    start: jax.Array,
    batches: jax.Array,
    held: jax.Array,
    *,
    recipe: Recipe,
) -> dict[str, jax.Array]:
    """Fits scores that weigh all samples alike.

    The decay is chosen by the samples left out, over all folds; the result is the mean
    of the folds' fits.

    Args:
      inputs: ``[K, N, D]``.
      correct: ``[K, N]``.
      start: Weights, ``[K, D + K]``.
      batches: Rows for each fold, ``[F, steps, B]``.
      held: Rows left out, ``[F, R]``.
      recipe: Hyper-parameters.
    """

    def judge(params, rows):
        scores = chained_scores(params, inputs[:, rows])
        return optax.sigmoid_binary_cross_entropy(scores, correct[:, rows]).mean()

    def fit_one(decay, batches, held):
        def objective(params, rows):
            return judge(params, rows) + decay * jnp.sum(
                (params["weights"] - start) ** 2
            )

        params = {"weights": start, "bias": jnp.zeros(len(start))}
        return _descend(objective, judge, params, batches, held, recipe)

    over_folds = jax.vmap(fit_one, (None, 0, 0))
    decays = jnp.array(recipe.decays)
    params, lowest = jax.vmap(over_folds, (0, None, None))(decays, batches, held)
    best = jnp.argmin(lowest.mean(axis=1))
    return jax.tree.map(lambda leaf: leaf[best].mean(axis=0), params)


@functools.partial(jax.jit, static_argnames="recipe")
def fit_all(
    inputs: jax.Array,
    correct: jax.Array,
    costs: jax.Array,
    budgets: jax.Array,
    starts: dict[str, jax.Array],
    batches: jax.Array,
    held: jax.Array,
    fixed: jax.Array | None,
    *,
    recipe: Recipe,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Fits all budgets from all starts.

    Args:
      inputs: ``[K, N, D]``.
      correct: ``[K, N]``.
      costs: From 0 to 1, ``[K]``.
      budgets: On the same scale, ``[Q]``.
      starts: See ``scores_and_gates``; leaves ``[restarts, ...]``.
      batches: Rows for each restart, ``[restarts, steps, B]``.
      held: Rows left out, ``[restarts, R]``.
      fixed: See ``scores_and_gates``.
      recipe: Hyper-parameters.

    Returns:
      Parameters, leaves ``[restarts, Q, ...]``, and mean exit distributions
      ``[restarts, Q, K]``.
    """

    def fit_one(budget, params, batches, held):
        start = params["weights"]

        def objective(params, rows):
            given = None if fixed is None else fixed[:, rows]
            shown = inputs[:, rows], correct[:, rows], costs, budget
            return loss(params, *shown, recipe, start, given)

        params, _ = _descend(objective, objective, params, batches, held, recipe)
        gates = scores_and_gates(params, inputs, fixed)[1]
        return params, jnp.exp(log_exit_distribution(gates)).mean(axis=1)

    over_budgets = jax.vmap(fit_one, (0, None, None, None))
    return jax.vmap(over_budgets, (None, 0, 0, 0))(budgets, starts, batches, held)
