"""EENet's learned scheduler (WACV 2024): exit scores and an exit assignment.

At exit k, from x_k = [p ; confidences of p ; past scores], a linear score q_k estimates
whether the answer is right, and a small network r_k how many samples should stop there.
Fitting ties the two together for a budget; deciding needs q and thresholds only.

Our recipe for it differs from the published code where that is at fault: the score is a
logit (started at the log-odds of max p) under plain cross-entropy, so that gradients
never vanish; one score chain serves fitting and deciding; both parts get full gradients
of one loss; fits stop early, by samples that they do not train on; and all budgets and
restarts are fitted in one program. The published recipe itself is "eenet:published"
(eenet_published.py).
"""

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import eenet_published, geometric
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import build_frontier
from eenet_jax.schedulers.eenet_model import (
    DEFAULT_RECIPE,
    Recipe,
    fit_all,
    fit_scores,
    init_assignment,
    start_weights,
)
from eenet_jax.schedulers.folds import draw_folds, rows_outside
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.scorers import logit_inputs
from eenet_jax.schedulers.settings import Variant

SCORES = {
    "nn": "eenet",
    "maxpred": "max_prob",
    "entropy": "entropy",
    "patience": "patience",
}
DISTRIBUTIONS = ("nn", "exp")
_OF_SCORES = ("score_steps", "decays", "pull")
_OF_SHARES = (
    *("restarts", "steps", "hidden", "pull"),
    *("score_weight", "ce_weight", "cost_weight", "beta"),
)
VARIANTS = {
    "": Variant(DEFAULT_RECIPE),
    "published": Variant(eenet_published.PUBLISHED),
    "nn+nn": Variant(DEFAULT_RECIPE),
    "nn+exp": Variant(DEFAULT_RECIPE, _OF_SHARES),
}
for _score in [score for score in SCORES if score != "nn"]:
    VARIANTS[f"{_score}+nn"] = Variant(DEFAULT_RECIPE, _OF_SCORES)
    VARIANTS[f"{_score}+exp"] = Variant()
PLANNED = 120  # candidates for each budget
CERTAIN = 1e-4  # fixed scores are kept this far from 0 and 1


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    variant: str = "nn+nn",
    recipe: Recipe | eenet_published.Preset | None = None,
) -> Frontier:
    """Fits score and assignment for every budget at once.

    Args:
      predictions: The validation part is fitted.
      budgets: Mean costs per sample, ``[Q]``; those outside the cost range are moved to
        its ends.
      key: Decides starts, folds and batches.
      variant: "SCORE+DISTRIBUTION", the pairs of the published code: the score is
        learned (nn), max p (maxpred), 1 - normalised entropy (entropy) or the number of
        equal answers in a row (patience); the exit distribution is learned (nn) or
        geometric (exp). Or "published", the published recipe of nn+nn.
      recipe: Hyper-parameters; of "published" a ``Preset``. By default the variant's.

    Returns:
      A frontier over all budgets and restarts.
    """
    costs, split = predictions.costs, predictions.val
    scale = max(costs[-1] - costs[0], 1e-12 * costs[-1])
    targets = np.unique(np.clip((budgets - costs[0]) / scale, 0.02, 0.98))
    recipe = VARIANTS[variant].recipe if recipe is None else recipe
    if variant == "published":
        params, shares = eenet_published.fit(predictions, targets, key, recipe)
        trials = shares.shape[1]
        shares = [
            rows
            for of_budget in spread(shares, targets, costs)
            for rows in np.split(of_budget, trials)
        ]
        return build_frontier(
            "eenet_linear", params, shares, predictions, lowest_taken=True
        )
    score, distribution = variant.split("+")
    scorer = SCORES[score]
    if score != "nn" and distribution == "exp":
        return geometric.fit(scorer, predictions)
    num_exits, num_samples, num_classes = split.logits.shape
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    batches, held = _draw_rows(rng, num_samples, recipe)
    inputs = jax.jit(logit_inputs)(split.logits, split.confidence)
    correct = jnp.asarray(split.correct, jnp.float32)
    weights, fixed = start_weights(num_exits, num_classes), None
    plain = {"weights": weights, "bias": np.zeros(num_exits, np.float32)}
    if score == "nn":
        steps = batches[:, : recipe.score_steps]
        plain = fit_scores(inputs, correct, weights, steps, held, recipe=recipe)
        plain = jax.device_get(plain)
    else:
        fixed = _fixed_scores(scorer, predictions)
    if distribution == "exp":
        params = {name: leaf[None] for name, leaf in plain.items()}
        shares = [geometric.planned_shares(costs)]
        return build_frontier(scorer, params, shares, predictions)

    starts = [
        {**plain, **init_assignment(rng, num_exits, num_classes, recipe.hidden)}
        for _ in range(recipe.restarts)
    ]
    of_restart = np.arange(recipe.restarts) % recipe.folds
    params, shares = fit_all(
        inputs,
        correct,
        jnp.asarray((costs - costs[0]) / scale, jnp.float32),
        jnp.asarray(targets, jnp.float32),
        jax.tree.map(lambda *leaves: np.stack(leaves), *starts),
        batches[of_restart, : recipe.steps],
        held[of_restart],
        fixed,
        recipe=recipe,
    )
    shares = np.asarray(shares, np.float64).mean(axis=0)[:, None]  # [Q, 1, K]
    shares = spread(shares, targets, costs)
    if fixed is not None:
        return build_frontier(scorer, {}, [np.concatenate(shares)], predictions)
    # Scores of restarts differ little, so that they are averaged.
    params = {name: np.asarray(params[name]).mean(axis=0) for name in plain}
    return build_frontier(scorer, params, shares, predictions)


def _draw_rows(
    rng: np.random.Generator, num_samples: int, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Draws for each fold batches of rows outside it, and equally many of its own."""
    fold = draw_folds(rng, num_samples, recipe.folds)
    steps = max(recipe.steps, recipe.score_steps)
    batch = (steps, min(recipe.batch_size, num_samples))
    batches = [rng.choice(rows, batch) for rows in rows_outside(fold, recipe.folds)]
    inside = [np.flatnonzero(fold == f) for f in range(recipe.folds)]
    size = max(1, min(map(len, inside)))
    inside = [rng.permutation(rows if len(rows) else num_samples) for rows in inside]
    return np.stack(batches), np.stack([rows[:size] for rows in inside])


def _fixed_scores(scorer: str, predictions: Predictions) -> np.ndarray:
    """Returns the logits of a scorer without parameters, ``[K, N]``."""
    num_exits = predictions.num_exits
    policy = Policy(scorer, {}, np.zeros(num_exits, np.float32))
    raw = score_split(policy, predictions.val)
    if scorer == "patience":
        raw = raw / num_exits
    raw = np.clip(raw, CERTAIN, 1 - CERTAIN)
    return np.log(raw / (1 - raw)).astype(np.float32)


def spread(
    shares: np.ndarray, targets: np.ndarray, costs: np.ndarray
) -> list[np.ndarray]:
    """Moves each budget's shares to planned costs between its neighbours' budgets.

    Args:
      shares: Mean exit distributions of each budget's fits, ``[Q, R, K]``.
      targets: The budgets on a scale from 0 to 1, rising, ``[Q]``.
      costs: ``[K]``.

    Returns:
      For each budget ``[M, K]``: mixed with "all leave first" to cost less, with "all
      leave last" to cost more.
    """
    ends = np.concatenate([[0.0], targets, [1.0]])
    first, last = np.eye(len(costs))[[0, -1]]
    count = max(PLANNED // shares.shape[1], 4)
    spread = []
    for rows, low, high in zip(shares, ends[:-2], ends[2:], strict=True):
        rows = (rows / rows.sum(axis=1, keepdims=True))[:, None]  # [R, 1, K]
        wanted = costs[0] + np.linspace(low, high, count) * (costs[-1] - costs[0])
        planned = rows @ costs  # [R, 1]
        less = (wanted - costs[0]) / np.maximum(planned - costs[0], 1e-12)
        less = np.clip(less, 0, 1)[..., None]  # [R, count, 1]
        more = (wanted - planned) / np.maximum(costs[-1] - planned, 1e-12)
        more = np.clip(more, 0, 1)[..., None]
        mixed = less * rows + (1 - less) * first
        mixed = (1 - more) * mixed + more * last
        spread.append(mixed.reshape(-1, len(costs)))
    return spread
