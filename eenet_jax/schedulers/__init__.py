"""Schedulers: from predictions to policies for every budget.

``fit(name, predictions, budgets=..., key=...)`` returns a frontier, and
``frontier.for_budget(b)`` a policy. Nothing here knows a backbone.
"""

import difflib
from collections.abc import Sequence

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import eenet, geometric, lagrangian, maxprob_opt, pabee
from eenet_jax.schedulers.budget import Frontier
from eenet_jax.schedulers.policy import Policy, load_policy, save_policy

__all__ = [
    "SCHEDULERS",
    "Frontier",
    "Policy",
    "fit",
    "load_policy",
    "missing_evidence",
    "save_policy",
]

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
) -> Frontier:
    """Fits a scheduler on the validation part of ``predictions``.

    Args:
      name: One of ``SCHEDULERS``.
      predictions: The test part is not looked at.
      budgets: Mean costs per sample of particular interest; 20 values over the cost
        range by default. The frontier serves every budget all the same.
      key: Of the fit's randomness.

    Raises:
      UserError: If the name is unknown.
    """
    check_name(name)
    if budgets is None:
        budgets = np.linspace(predictions.costs[0], predictions.costs[-1], 20)
    budgets = np.asarray(budgets, np.float64)
    return SCHEDULERS[name](predictions, budgets=budgets, key=key)


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
