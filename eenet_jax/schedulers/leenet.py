"""LEENet: one linear gate on each early exit's features, trained for a grid of alphas.

alpha in [0, 1] weighs cost against error in the loss. One fit trains the gates of all
alphas in one program, and answers every budget. The variant "combined" reads what the
exit says beside its features: it needs the exit's head where LEENet's does not.
"""

from collections.abc import Sequence

import jax
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import frontier_of, outcome_values
from eenet_jax.schedulers.confidence import own_features
from eenet_jax.schedulers.feature_gates import OPEN
from eenet_jax.schedulers.gate_training import DEFAULT_RECIPE, Recipe, Solver, solver
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.price_frontier import same_thresholds, thresholds_between
from eenet_jax.schedulers.settings import Variant
from eenet_jax.schedulers.thresholds import realise

VARIANTS = {"": Variant(DEFAULT_RECIPE), "combined": Variant(DEFAULT_RECIPE)}


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


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    recipe: Recipe = DEFAULT_RECIPE,
    variant: str = "gate",
) -> Frontier:
    """Trains gates for a grid of alphas, twice, which together serve every budget.

    Cost as a function of alpha is a cliff: the published grid, even in alpha, leaves
    most costs out. So a second grid stands where the first one's costs changed. What
    is left between is reached by other thresholds than one half.

    Args:
      predictions: With features; the validation part is fitted.
      budgets: Not used.
      key: Of the folds, the batches and what is dropped.
      recipe: Hyper-parameters.
      variant: "gate", or "combined".
    """
    del budgets
    scorer = f"{variant}_{predictions.gate_inputs}"
    values = outcome_values(predictions.val, _charged(scorer, predictions))
    solve = _solver(scorer, predictions, key, recipe)
    alphas = np.linspace(0, 1, recipe.alphas)
    first = solve(alphas)
    more = _where_costs_change(alphas, _outcomes(first[1], values)[:, 1])
    both = jax.tree.map(lambda *pair: np.concatenate(pair), first, solve(more))
    alphas = np.concatenate([alphas, more])
    order = np.argsort(alphas, kind="stable")
    params, crossed = jax.tree.map(lambda leaf: leaf[order], both)
    params["alpha"] = alphas[order].astype(np.float32)  # for who looks, not the score
    return _frontier(scorer, params, _outcomes(crossed, values), predictions)


def solve_alphas(
    predictions: Predictions, alphas: Sequence[float], *, key: jax.Array, recipe: Recipe
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Trains the gates of some alphas in one program, as ``fit`` does.

    Returns:
      Their parameters, leaves ``[A, ...]``, and their accuracy and mean cost on samples
      that they were not trained on, ``[A, 2]``.
    """
    scorer = f"gate_{predictions.gate_inputs}"
    values = outcome_values(predictions.val, _charged(scorer, predictions))
    params, crossed = _solver(scorer, predictions, key, recipe)(np.asarray(alphas))
    return params, _outcomes(crossed, values)


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
      key: Of the folds, the batches and what is dropped.
      recipe: Hyper-parameters.
    """
    params, _ = solve_alphas(predictions, [alpha], key=key, recipe=recipe)
    bias = params.pop("bias")[0]
    weights = [params[f"weight_{k}"][0] for k in range(len(bias))]
    return gate_policy(predictions.gate_inputs, weights, bias)


def _solver(
    scorer: str, predictions: Predictions, key: jax.Array, recipe: Recipe
) -> Solver:
    """Returns what trains gates of a kind on the validation part."""
    split, costs = predictions.val, _charged(scorer, predictions)
    inputs = split.features[: len(costs) - 1]
    if scorer.startswith("combined"):
        pairs = zip(inputs, jax.vmap(own_features)(split.logits[:-1]), strict=True)
        inputs = [np.concatenate(pair, axis=1) for pair in pairs]
    return solver(inputs, split, costs, key=key, recipe=recipe)


def _charged(scorer: str, predictions: Predictions) -> np.ndarray:
    """Returns what leaving at each exit costs where gates decide, ``[K]``."""
    thresholds = same_thresholds(np.array([OPEN]), len(predictions.costs))[0]
    return Policy(scorer, {}, thresholds).charges(*predictions.prices)


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
    scorer: str,
    params: dict[str, np.ndarray],
    honest: np.ndarray,
    predictions: Predictions,
) -> Frontier:
    """Makes candidates of gates for rising alphas.

    Args:
      scorer: Theirs.
      params: Leaves ``[A, ...]``.
      honest: Accuracy and cost of each alpha on samples not fitted to, ``[A, 2]``.
      predictions: The validation part calibrates.
    """
    split, costs = predictions.val, _charged(scorer, predictions)
    values = outcome_values(split, costs)
    unset = same_thresholds(np.zeros(1), len(costs))[0]
    members = [
        {name: leaf[a] for name, leaf in params.items()} for a in range(len(honest))
    ]
    scores = [score_split(Policy(scorer, m, unset), split) for m in members]
    cuts = thresholds_between(scores, [values] * len(scores), float(OPEN))
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
