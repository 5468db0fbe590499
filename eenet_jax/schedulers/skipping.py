"""Predictive Exit: policies that test some exits only, for every budget.

"learned", the default, forecasts from how sure an exit is which later one is worth
testing (``forecast_training``). The others leave where max|z| >= beta tau: "published"
forecasts by sums over neighbouring classes, "every" tests all exits from the first one
on, "placed" those that earn their place by the published rule. Their beta and first
exit come from one sweep over all pairs, or are given: "published+beta=6+start=8".
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import forecast_training, predictive
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.candidates import skipping_frontier
from eenet_jax.schedulers.maxprob_opt import upper_hull
from eenet_jax.schedulers.settings import Variant

NUM_BETAS = 64
NUM_STARTS = 20  # first exits tried, at most, evenly spread
CHUNK = 128  # policies replayed at once


class Fixed(NamedTuple):
    """What of the rule is given, None for all that come into question.

    Attributes:
      beta: Factor of tau in the exit test.
      start: First exit tested, counted from 1; "placed" has its own.
      rounds: Exits that a published forecast looks ahead; as for VGG-19, 5 for STL-10.
      past_last: Whether a forecast beyond the last exit leads to the network's end, as
        published for ResNet-34, or to the last exit first.
    """

    beta: float | None = None
    start: int | None = None
    rounds: int = 8
    past_last: bool = False


VARIANTS = {
    "": Variant(forecast_training.DEFAULT_RECIPE),
    "learned": Variant(forecast_training.DEFAULT_RECIPE),
    "published": Variant(Fixed()),
    "every": Variant(Fixed(), ("rounds", "past_last")),
    "placed": Variant(Fixed(), ("start", "rounds", "past_last")),
}


def fit(
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    variant: str = "learned",
    recipe: forecast_training.Recipe | Fixed | None = None,
) -> Frontier:
    """Fits a rule of this kind for every budget.

    Args:
      predictions: The validation part is fitted. All but "learned" need
        ``activation_mean``.
      budgets: Not used.
      key: Of the learned forecast's folds and random units.
      variant: One of ``VARIANTS``.
      recipe: Hyper-parameters of "learned"; of the others what is fixed.

    Raises:
      UserError: If ``activation_mean`` is not positive at an exit, or a beta or start
        that is given cannot be.
    """
    del budgets
    recipe = VARIANTS[variant].recipe if recipe is None else recipe
    if variant == "learned":
        return forecast_training.fit(predictions, key=key, recipe=recipe)
    return _sweep(variant, recipe, predictions)


def _sweep(variant: str, fixed: Fixed, predictions: Predictions) -> Frontier:
    """Tries all pairs of a beta and a first exit; keeps the frontier."""
    split, tau = predictions.val, predictions.activation_mean
    num_tested = predictions.num_exits - 1
    tau = tau[:num_tested]
    exit_bounds = functools.partial(predictive.exit_bounds, tau)
    exit_bounds([1.0])  # refuses a tau of zero before anything is divided by it
    if fixed.rounds > predictive.MAX_ROUNDS:
        raise UserError(
            f"predictive_exit: rounds={fixed.rounds} must be at most "
            f"{predictive.MAX_ROUNDS}, which is what was published"
        )
    betas = _betas(split.logits[:-1], tau)
    if fixed.beta is not None:
        betas = np.array([fixed.beta])
    bounds = exit_bounds(betas)
    count = min(num_tested, NUM_STARTS)
    starts = np.linspace(0, num_tested - 1, count).round().astype(np.int32)
    if fixed.start is not None:
        starts = predictive.check_starts([fixed.start], num_tested)
    if variant == "placed":
        starts, following = _places(predictions, bounds)
    else:
        bounds = np.repeat(bounds, len(starts), axis=0)
        starts = np.tile(starts, len(betas))
        following = np.broadcast_to(np.arange(1, num_tested + 1), bounds.shape)
    rule = None if variant == "published" else following.astype(np.int32)
    means = []
    for i in range(0, len(bounds), CHUNK):
        rows = slice(i, i + CHUNK)
        found = _decide(
            split.logits[:-1],
            bounds[rows],
            starts[rows],
            rounds=fixed.rounds,
            past_last=fixed.past_last,
            following=None if rule is None else rule[rows],
        )
        means.append(predictive.outcomes(*found, predictions))
    means = np.concatenate(means)
    kept = upper_hull(means[:, 1], means[:, 0])
    kept = np.union1d(kept, _undominated(means))
    params = {"start": starts[kept]}
    if variant == "published":
        shape = len(kept)
        params |= {
            "bounds": bounds[kept],
            "rounds": np.full(shape, fixed.rounds, np.int32),
            "past_last": np.full(shape, fixed.past_last),
        }
    else:
        params["following"] = rule[kept]
    cuts = np.append(bounds[kept], np.full((len(kept), 1), -np.inf), axis=1)
    return skipping_frontier(
        "forecast_published" if variant == "published" else "forecast_fixed",
        {},
        params,
        [*cuts.astype(np.float32)[:, None]],
        [*means[kept][:, None]],
        predictions,
    )


_decide = jax.jit(predictive.decide, static_argnames=("rounds", "past_last"))


def _betas(logits: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Returns betas from where nearly all leave to where nearly nobody does."""
    ratio = np.abs(logits).max(axis=-1) / tau[:, None]
    low, high = np.quantile(ratio, [0.001, 0.999])
    return np.geomspace(max(low, 1e-6 * high), 1.01 * high, NUM_BETAS)


def _places(
    predictions: Predictions, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each beta the first exit that earns its place and who follows."""
    strength = np.abs(predictions.val.logits[:-1]).max(axis=-1)
    staying = (strength[None] < bounds[:, :, None]).mean(axis=2)  # [M, E]
    backbone, heads = predictions.split_costs
    earns = predictive.earning_exits(staying, np.diff(backbone, prepend=0), heads[:-1])
    num_tested = earns.shape[1]
    place = np.where(earns, np.arange(num_tested), num_tested)
    nearest = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    following = np.append(nearest[:, 1:], np.full((len(place), 1), num_tested), axis=1)
    return nearest[:, 0].astype(np.int32), following


def _undominated(means: np.ndarray) -> np.ndarray:
    """Returns the rows than which none is both cheaper and more accurate."""
    order = np.lexsort((-means[:, 0], means[:, 1]))
    best = np.maximum.accumulate(np.append(-np.inf, means[order, 0]))[:-1]
    return order[means[order, 0] > best]
