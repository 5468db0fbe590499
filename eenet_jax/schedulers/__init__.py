"""Schedulers: from predictions to policies for every budget.

``fit(name, predictions, budgets=..., key=...)`` returns a frontier, and
``frontier.for_budget(b)`` a policy. Nothing here knows a backbone.
"""

import dataclasses
import difflib
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays
from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import eenet, geometric, lagrangian, maxprob_opt, pabee
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.policy import Policy, load_policy, save_policy

__all__ = [
    "SCHEDULERS",
    "Frontier",
    "Policy",
    "fit",
    "load",
    "load_policy",
    "missing_evidence",
    "save_policy",
]

HELD_OUT_SEED = 0
SCHEDULERS = {
    "msdnet": geometric.fit_msdnet,
    "branchynet": geometric.fit_branchynet,
    "pabee": pabee.fit,
    "maxprob_opt": maxprob_opt.fit,
    "entropy_opt": maxprob_opt.fit_entropy,
    "eenet": eenet.fit,
    "lagrangian": lagrangian.fit,
}


def fit(
    name: str,
    predictions: Predictions,
    *,
    budgets: Sequence[float] | None = None,
    key: jax.Array,
    calibration: float = 0.0,
) -> Frontier:
    """Fits a scheduler on the validation part of ``predictions``.

    Args:
      name: One of ``SCHEDULERS``.
      predictions: The test part is not looked at.
      budgets: Mean costs per sample of particular interest; 20 values over the cost
        range by default. The frontier serves every budget all the same.
      key: Of the fit's randomness.
      calibration: Share of the validation part, in [0, 1), that is held out of the fit
        for guarantees (``for_budget`` with ``confidence``, ``for_drop``).

    Raises:
      UserError: If the name is unknown, or a share of the samples is too small.
    """
    check_name(name)
    costs = predictions.costs
    if budgets is None:
        budgets = np.linspace(costs[0], costs[-1], 20)
    budgets = np.asarray(budgets, np.float64)
    if not calibration:
        return SCHEDULERS[name](predictions, budgets=budgets, key=key)
    num_samples = len(predictions.val.labels)
    num_held = round(calibration * num_samples)
    if not 0 < num_held < num_samples:
        raise UserError(
            f"calibration={calibration} of {num_samples} validation samples leaves "
            "none on one side; take a share between 0 and 1"
        )
    order = np.random.default_rng(HELD_OUT_SEED).permutation(num_samples)
    held, rest = np.sort(order[:num_held]), np.sort(order[num_held:])
    fitted_on = dataclasses.replace(predictions, val=predictions.val.take(rest))
    frontier = SCHEDULERS[name](fitted_on, budgets=budgets, key=key)
    return frontier.calibrate(predictions.val.take(held), costs)


def load(path: str | pathlib.Path) -> Policy | Frontier:
    """Reads a saved policy or a saved frontier, whichever the file holds.

    Raises:
      UserError: If it holds neither.
    """
    arrays = load_arrays(pathlib.Path(path))
    return Frontier.load(path) if "member" in arrays else load_policy(path)


def check_name(name: str) -> None:
    """Raises a ``UserError`` with the choices if there is no such scheduler."""
    if name in SCHEDULERS:
        return
    close = difflib.get_close_matches(name, SCHEDULERS, 1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    raise UserError(
        f"--scheduler={name!r} is unknown; choose from {sorted(SCHEDULERS)}{hint}"
    )


def missing_evidence(name: str, predictions: Predictions) -> str | None:
    """Returns what a scheduler would need beside these predictions, None if nothing."""
    check_name(name)
    del predictions  # all schedulers so far work from logits alone
    return None
