"""Fits schedulers on predictions and measures them for every budget."""

import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax import schedulers as schedulers_lib
from eenet_jax.errors import UserError
from eenet_jax.files import write_text
from eenet_jax.fits import fit_or_reuse
from eenet_jax.predictions import Predictions, Split
from eenet_jax.report import figures, frontier
from eenet_jax.runtime.simulate import Decisions, simulate
from eenet_jax.schedulers.bounds import clairvoyant
from eenet_jax.writers import Progress

NUM_AUTO_BUDGETS = 20
DROP_CONFIDENCE = 0.95
HELD_OUT_SHARE = 0.5  # of the validation part, where a guarantee is asked for


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


def parse_schedulers(
    text: str, predictions: Predictions
) -> tuple[list[str], dict[str, str]]:
    """Reads ``--scheduler``.

    Args:
      text: Names with commas between, or "all": those that these predictions suffice
        for.
      predictions: What there is.

    Returns:
      The schedulers to fit, and those that "all" leaves out with what they lack.

    Raises:
      UserError: If a name is unknown or names a scheduler that lacks something.
    """
    every = list(schedulers_lib.SCHEDULERS)
    names = every if text == "all" else list(dict.fromkeys(text.split(",")))
    lacks = {n: schedulers_lib.missing_evidence(n, predictions) for n in names}
    lacks = {name: lack for name, lack in lacks.items() if lack}
    if lacks and text != "all":
        listed = "; ".join(f"{name} needs {lack}" for name, lack in lacks.items())
        raise UserError(f"--scheduler={text}: {listed}, which these predictions lack")
    return [name for name in names if name not in lacks], lacks


def evaluate(
    predictions: Predictions,
    *,
    schedulers: Sequence[str],
    budgets: np.ndarray,
    key: jax.Array,
    confidence: float | None = None,
    max_drop: float | None = None,
    policies_dir: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Fits each scheduler and measures it for each budget.

    Args:
      predictions: The schedulers are fitted on ``val`` and measured on both parts.
      schedulers: Names; none for the exits' own accuracies and costs only.
      budgets: Mean costs per sample, in the unit of ``predictions.costs``.
      key: Of the fits.
      confidence: If given, budgets hold on new data with this probability; half of
        the validation part is held out of the fits for it.
      max_drop: If given, every scheduler gets one record instead, of its cheapest
        policy whose accuracy on new data is at most this far below the last exit's,
        with ``confidence`` (0.95 by default).
      policies_dir: Where each scheduler's fit is kept; one that is there and depends on
        nothing that has changed is used again.

    Returns:
      What ``results.json`` holds (README), ready for ``json.dumps``.

    Raises:
      UserError: If a budget is below the cheapest exit.
    """
    costs, unit = predictions.costs, predictions.cost_unit
    low = budgets.min() if len(schedulers) else costs[0]
    if low < costs[0] * (1 - 1e-9):
        raise UserError(
            f"--budgets: {low:g} {unit} is below {costs[0]:g}, the cost of stopping "
            "everyone at the first exit; raise the budget or choose a cheaper network"
        )
    budgets = np.maximum(budgets, costs[0])
    if max_drop is not None and confidence is None:
        confidence = DROP_CONFIDENCE
    progress = Progress(len(schedulers), 0, "scheduler")
    records = []
    for name in schedulers:
        fitted, seconds, reused = fit_or_reuse(
            name,
            predictions,
            budgets=budgets,
            key=jax.random.fold_in(key, zlib.crc32(name.encode())),
            calibration=0.0 if confidence is None else HELD_OUT_SHARE,
            folder=policies_dir,
        )
        if max_drop is None:
            found = policies_for(fitted, budgets, predictions, confidence)
        else:
            policy = fitted.for_drop(max_drop, confidence)
            found = [{**_record(predictions, policy, None), "max_drop": max_drop}]
        named = {"scheduler": name, "fit_seconds": seconds}
        records += [{**named, **record} for record in found]
        progress.update(1, name)
        source = "read back, had been fitted" if reused else "fitted"
        progress.line(f"{name}: {source} in {seconds:.1f} s")
    progress.close()
    return _results(predictions, records)


def _results(predictions: Predictions, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "cost_unit": predictions.cost_unit,
        "costs": predictions.costs.tolist(),
        "exit_accuracy": {
            part: getattr(predictions, part).correct.mean(axis=1).tolist()
            for part in ("val", "test")
        },
        "single_exit_costs": single_exit_costs(predictions).tolist(),
        "clairvoyant": _clairvoyant(predictions),
        "records": records,
    }


def policies_for(
    frontier: schedulers_lib.Frontier,
    budgets: np.ndarray,
    predictions: Predictions,
    confidence: float | None = None,
) -> list[dict[str, Any]]:
    """Returns one record for each budget."""
    policies = ((float(b), frontier.for_budget(float(b), confidence)) for b in budgets)
    return [_record(predictions, policy, budget) for budget, policy in policies]


def apply_saved(
    path: pathlib.Path, budgets: np.ndarray, predictions: Predictions
) -> dict[str, Any]:
    """Measures a saved policy, or a saved fit for each budget, without fitting.

    Args:
      path: A file of ``save_policy`` or of ``policies/``.
      budgets: For a fit. A policy gets one record, with its validation cost as budget.
      predictions: To measure on.

    Returns:
      As ``evaluate``; the scheduler is called by the file's name.

    Raises:
      UserError: If the file holds neither, or is for another number of exits.
    """
    saved = schedulers_lib.load(path)
    if isinstance(saved, schedulers_lib.Frontier):
        records = policies_for(saved, budgets, predictions)
    else:
        records = [_record(predictions, saved, None)]
    named = {"scheduler": path.stem, "fit_seconds": 0.0}
    return _results(predictions, [{**named, **record} for record in records])


def _record(
    predictions: Predictions, policy: schedulers_lib.Policy, budget: float | None
) -> dict[str, Any]:
    val, test = predictions.val, predictions.test
    on_val = simulate(policy, val, predictions.costs)
    on_test = simulate(policy, test, predictions.costs)
    budget = on_val.mean_cost if budget is None else budget
    return {
        "budget": budget,
        "val_accuracy": on_val.accuracy(val.labels),
        "val_cost": on_val.mean_cost,
        "test_accuracy": on_test.accuracy(test.labels),
        "test_cost": on_test.mean_cost,
        "met": bool(on_val.mean_cost <= budget * (1 + 1e-9)),
        "thresholds": [_number(t) for t in np.asarray(policy.thresholds)],
        "exit_fraction": on_test.exit_fraction.tolist(),
        "accuracy_where_taken": _accuracy_where_taken(on_test, test),
    }


def _accuracy_where_taken(decisions: Decisions, split: Split) -> list[float | None]:
    """Accuracy of the samples that left at each exit; None where nobody did."""
    right = decisions.labels == split.labels
    taken = [decisions.exit_index == k for k in range(len(decisions.scores))]
    return [float(right[t].mean()) if t.any() else None for t in taken]


def single_exit_costs(predictions: Predictions) -> np.ndarray:
    """Returns the cost of a network that has exit k only, ``[K]``.

    It runs no other head; where the heads' costs are not known, they are counted in.
    """
    if predictions.head_costs is None:
        return predictions.costs
    heads = predictions.head_costs
    return predictions.costs - np.cumsum(heads) + heads


def _clairvoyant(predictions: Predictions) -> dict[str, list[float]]:
    """The bound on the test part, for costs up to where it stops rising."""
    costs = predictions.costs
    budgets = np.linspace(costs[0], costs[-1], 100)
    accuracy = clairvoyant(predictions.test, costs, budgets)
    return {"budgets": budgets.tolist(), "test_accuracy": accuracy.tolist()}


def _number(value: float) -> float | str:
    """Returns a threshold as JSON can hold it."""
    return float(value) if np.isfinite(value) else str(float(value))


def make_output(output: pathlib.Path) -> None:
    """Makes the report's directory, so that a bad one is refused before any fit.

    Raises:
      UserError: If it cannot be made.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be made ({error.strerror}); name a directory "
            "that you can write to"
        ) from None


def write_report(results: Mapping[str, Any], output: pathlib.Path) -> str:
    """Writes ``results.json``, ``frontier.png`` and, with records, ``exits.png``.

    Args:
      results: What ``evaluate`` returned.
      output: Directory; made if it is not there.

    Returns:
      The table to print.
    """
    make_output(output)
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_text(output / "results.json", text)
    figures.save_frontier(results, output / "frontier.png")
    figures.save_exits(results, output / "exits.png")
    return frontier.table(results)
