"""Reads the flags of ``evaluate.py`` that take lists."""

import numpy as np

from eenet_jax import schedulers as schedulers_lib
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions
from eenet_jax.schedulers import settings

NUM_AUTO_BUDGETS = 20


def parse_budgets(text: str, costs: np.ndarray) -> np.ndarray:
    """Reads ``--budgets``.

    Args:
      text: "auto" (20 values from the first to the last cost), "x,y,..." or "lo:hi:n"
        (n values, both ends included).
      costs: ``[K]``.

    Returns:
      Budgets, float64, rising.

    Raises:
      UserError: If the text is none of these.
    """
    if text == "auto":
        return np.linspace(costs[0], costs[-1], NUM_AUTO_BUDGETS)
    try:
        if ":" in text:
            low, high, count = text.split(":")
            if int(count) < 1:
                raise ValueError
            budgets = np.linspace(float(low), float(high), int(count))
        else:
            budgets = np.array([float(part) for part in text.split(",")])
        if not np.isfinite(budgets).all():
            raise ValueError
    except ValueError:
        raise UserError(
            f"--budgets={text} is not understood; give auto, numbers as in 1.5,2,3.25, "
            "or lo:hi:n for n numbers from lo to hi"
        ) from None
    return np.unique(budgets)


def parse_speedups(text: str, predictions: Predictions) -> np.ndarray:
    """Reads ``--speedup``: how many times as fast as the full network alone.

    Args:
      text: "x,y,...", at least 1 each.
      predictions: Whose costs count.

    Returns:
      Budgets, float64, rising.

    Raises:
      UserError: If the text is no such list, or a speed-up is out of reach.
    """
    full, first = predictions.single_exit_costs[-1], predictions.costs[0]
    if not 0 < first < full:
        raise UserError(
            f"--speedup={text}: the first exit costs {first:g} and the full network "
            f"{full:g} {predictions.cost_unit}, so nothing is gained; give --budgets"
        )
    most = np.floor(100 * full / first) / 100
    try:
        wanted = np.array([float(part) for part in text.split(",")])
    except ValueError:
        wanted = np.zeros(1)
    if not (wanted >= 1).all() or (wanted > full / first * (1 + 1e-9)).any():
        raise UserError(
            f"--speedup={text} must be numbers from 1 to {most:g}, which "
            "stopping everyone at the first exit gives"
        )
    return np.unique(full / wanted)


def parse_schedulers(
    text: str, predictions: Predictions, ensemble: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Reads ``--scheduler``.

    Args:
      text: Names with commas between; "all" stands for those that these predictions
        suffice for, and a name with alternatives (``settings.expand``) for several.
      predictions: What there is.
      ensemble: Whether exits answer with the mean of those before.

    Returns:
      The schedulers to fit, and those that "all" leaves out with what they lack.

    Raises:
      UserError: If a name is unknown or names a scheduler that lacks something.
    """
    every = list(schedulers_lib.SCHEDULERS)
    parts = [name for part in text.split(",") for name in settings.expand(part)]
    names = [n for part in parts for n in (every if part == "all" else [part])]
    names = list(dict.fromkeys(names))
    lacks = {
        n: schedulers_lib.missing_evidence(n, predictions, ensemble) for n in names
    }
    lacks = {name: lack for name, lack in lacks.items() if lack}
    asked = {name: lack for name, lack in lacks.items() if name in parts}
    if asked:
        listed = "; ".join(f"{name} needs {lack}" for name, lack in asked.items())
        raise UserError(f"--scheduler={text}: {listed}")
    return [name for name in names if name not in lacks], lacks


def check_guarantee(
    predictions: Predictions, confidence: float | None, max_drop: float | None
) -> None:
    """Refuses guarantees that cannot be given."""
    if max_drop is not None and predictions.metric == "miou":
        raise UserError(
            f"--max_drop={max_drop} bounds a mean over samples, which the mean IoU is "
            "not; give --min_accuracy or --budgets"
        )
    if confidence is not None and predictions.samples_per_image > 1:
        raise UserError(
            f"--confidence={confidence} is for independent samples, which blocks of an "
            "image are not; leave it out, or leave out --blocks"
        )
