"""Schedulers: from predictions to policies for every budget.

``fit(name, predictions, budgets=..., key=...)`` returns a frontier, and
``frontier.for_budget(b)`` a policy. Nothing here knows a backbone.
"""

import dataclasses
import difflib
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import (
    eenet,
    eenet_published,
    geometric,
    lagrangian,
    leenet,
    maxprob_opt,
    pabee,
    settings,
    skipping,
)
from eenet_jax.schedulers.adjust import Adjustment, adjust_predictions, fit_adjustment
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.folds import draw_share
from eenet_jax.schedulers.leenet import gate_policy
from eenet_jax.schedulers.policy import Policy, load_policy, save_policy

__all__ = [
    "SCHEDULERS",
    "Adjustment",
    "Frontier",
    "Policy",
    "fit",
    "gate_policy",
    "load",
    "load_policy",
    "missing_evidence",
    "save_policy",
]

HELD_OUT_SEED = 0
FOR_MAPS = ("msdnet", "maxprob_opt", "eenet", "lagrangian")  # of a class for each pixel
SCHEDULERS = {
    "msdnet": geometric.fit_msdnet,
    "branchynet": geometric.fit_branchynet,
    "pabee": pabee.fit,
    "maxprob_opt": maxprob_opt.fit,
    "entropy_opt": maxprob_opt.fit_entropy,
    "eenet": eenet.fit,
    "leenet": leenet.fit,
    "lagrangian": lagrangian.fit,
    "predictive_exit": skipping.fit,
}
VARIANTS = {
    "eenet": eenet.VARIANTS,
    "lagrangian": lagrangian.VARIANTS,
    "leenet": leenet.VARIANTS,
    "predictive_exit": skipping.VARIANTS,
}


def fit(
    name: str,
    predictions: Predictions,
    *,
    budgets: Sequence[float] | None = None,
    key: jax.Array,
    calibration: float = 0.0,
    temperature: bool = False,
    ensemble: bool = False,
) -> Frontier:
    """Fits a scheduler on the validation part of ``predictions``.

    Adjustments of the logits are fitted first, and the scheduler to what they give; the
    policies bring them along and take the network's own logits. They cost nothing:
    averaging C numbers is nothing against a stage. But an ensemble needs all heads.

    Args:
      name: One of ``SCHEDULERS``, or "NAME:VARIANT+FIELD=VALUE" for one of its
        ``VARIANTS`` with other hyper-parameters; either part may be missing.
      predictions: The test part is not looked at.
      budgets: Mean costs per sample of particular interest; 20 values over the cost
        range by default. The frontier serves every budget all the same.
      key: Of the fit's randomness.
      calibration: Share of the validation part, in [0, 1), that is held out of the fit
        for guarantees (``for_budget`` with ``confidence``, ``for_drop``).
      temperature: Divide each exit's logits by a temperature fitted to the rows that
        the scheduler is fitted to.
      ensemble: Let exit k answer with the mean of the probabilities of exits 0..k.

    Raises:
      UserError: If the name is unknown, or a share of the samples is too small.
    """
    lack = missing_evidence(name, predictions, ensemble)
    if lack:
        raise UserError(f"{name} needs {lack}")
    if predictions.metric == "miou" and (temperature or ensemble):
        raise UserError(
            "--temperature and --ensemble are for samples of one class; predictions "
            "of maps have no logits of pixels to adjust"
        )
    base, variant, recipe = read_name(name)
    chosen = {"variant": variant} if variant else {}
    if recipe is not None:
        chosen["recipe"] = recipe
    fit_on = functools.partial(SCHEDULERS[base], **chosen)
    costs = predictions.costs
    if budgets is None:
        budgets = np.linspace(costs[0], costs[-1], 20)
    budgets = np.asarray(budgets, np.float64)
    held, rest = None, predictions.val
    if calibration:
        held, rest = _hold_out(predictions.val, calibration)
    adjustment = fit_adjustment(rest, temperature=temperature, ensemble=ensemble)
    given = dataclasses.replace(predictions, val=rest)
    fitted_on = adjust_predictions(adjustment, given)
    frontier = fit_on(fitted_on, budgets=budgets, key=key)
    frontier = dataclasses.replace(frontier, adjustment=adjustment)
    known = predictions.head_costs is not None or predictions.gate_costs is not None
    policy = frontier.policy(0)
    if known and not (policy.looks_back and policy.reads_logits):
        frontier = frontier.with_costs(given)  # what runs is charged, no more
    return frontier if held is None else frontier.calibrate(held, predictions)


def _hold_out(split: Split, calibration: float) -> tuple[Split, Split]:
    """Draws the samples held out for guarantees; returns them and the others."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    held, rest = draw_share(rng, split.num_samples, calibration)
    if not (len(held) and len(rest)):
        raise UserError(
            f"calibration={calibration} of {split.num_samples} validation samples "
            "leaves none on one side; take a share between 0 and 1"
        )
    return split.take(held), split.take(rest)


def load(path: str | pathlib.Path) -> Policy | Frontier:
    """Reads a saved policy or frontier, or a scheduler that EENet's authors released.

    Raises:
      UserError: If the file holds none of these.
    """
    arrays = load_arrays(pathlib.Path(path))
    if "exit0_q_class" in arrays:
        return eenet_published.from_released(arrays)
    return Frontier.load(path) if "member" in arrays else load_policy(path)


def read_name(name: str) -> tuple[str, str, Any]:
    """Returns the scheduler, variant and recipe (or None) that a name stands for.

    Raises:
      UserError: If there is no such scheduler, variant or hyper-parameter, with the
        choices, or a value cannot be.
    """
    base = name.partition(":")[0]
    if base in SCHEDULERS:
        return base, *settings.read(name, VARIANTS.get(base, {"": settings.Variant()}))
    close = difflib.get_close_matches(name, SCHEDULERS, 1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"--scheduler={name!r} is unknown; choose from {sorted(SCHEDULERS)}{hint}"
    )


def missing_evidence(
    name: str, predictions: Predictions, ensemble: bool = False
) -> str | None:
    """Returns what a scheduler would need beside these predictions, None if nothing.

    Args:
      name: Of the scheduler.
      predictions: What there is.
      ensemble: Whether exits answer with the mean of those before (see ``fit``).
    """
    base, variant, _ = read_name(name)
    if predictions.num_exits == 1:
        return "at least 2 exits to choose from"
    lack = predictions.val.features is None or predictions.test.features is None
    if predictions.metric == "miou" and base not in FOR_MAPS:
        return "samples of one class; these have one a pixel"
    if base == "leenet" and lack:
        return "val_features_k and test_features_k of every early exit (gates.inputs)"
    if base == "predictive_exit" and ensemble:
        return "to skip exits, whose answers --ensemble takes the mean of"
    if base == "predictive_exit" and variant not in ("", "learned"):
        lack = predictions.activation_mean is None
        return "activation_mean (eval.train_samples)" if lack else None
    return None
