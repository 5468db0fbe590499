"""Fits schedulers on predictions and measures them for every budget."""

import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax import iou, options
from eenet_jax import schedulers as schedulers_lib
from eenet_jax.comparison import compare, random_mixture
from eenet_jax.errors import UserError
from eenet_jax.fits import fit_or_reuse
from eenet_jax.measure import Chosen, Measured, Run, measure
from eenet_jax.metrics import finite_or_none
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import settings
from eenet_jax.schedulers.adjust import adjust_split
from eenet_jax.schedulers.bounds import clairvoyant
from eenet_jax.schedulers.scorers import SCORERS
from eenet_jax.writers import Progress

DROP_CONFIDENCE = 0.95
HELD_OUT_SHARE = 0.5  # of the validation part, where a guarantee is asked for
NUM_BOUND_BUDGETS = 100  # of the curves that need no fit


def evaluate(
    predictions: Predictions,
    *,
    schedulers: Sequence[str],
    budgets: np.ndarray,
    key: jax.Array,
    confidence: float | None = None,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    seeds: int = 1,
    policies_dir: pathlib.Path | None = None,
    temperature: bool = False,
    ensemble: bool = False,
    run: Run | None = None,
    energy_model: Mapping[str, Any] | None = None,
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
      min_accuracy: If given, likewise the cheapest policy that is this accurate on the
        validation part.
      seeds: Fits of each scheduler; the records are of the first, the comparison is of
        all.
      policies_dir: Where each scheduler's fit is kept; one that is there and depends on
        nothing that has changed is used again.
      temperature: See ``schedulers.fit``.
      ensemble: Likewise.
      run: Runs the policies for real; what it returns of each goes into its record, and
        what it returns of all under "adaptive".
      energy_model: Fields of the ``EnergyModel`` that costs in millijoules are from;
        policies that forecast their exits are then shown with DVFS too.

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
    options.check_guarantee(predictions, confidence, max_drop)
    if max_drop is not None and confidence is None:
        confidence = DROP_CONFIDENCE
    progress = Progress(len(schedulers) * seeds, 0, "fit")
    measured: dict[str, list[Measured]] = {name: [] for name in schedulers}
    adjustment = None  # it depends on the data only: all fits have the same
    for name in schedulers:
        for seed in range(seeds):
            fitted, seconds, reused = fit_or_reuse(
                name,
                predictions,
                budgets=budgets,
                key=_fit_key(key, name, seed),
                calibration=0.0 if confidence is None else HELD_OUT_SHARE,
                folder=policies_dir,
                seed=seed,
                temperature=temperature,
                ensemble=ensemble,
            )
            adjustment = fitted.adjustment
            chosen, added = _choose(
                name, fitted, predictions, budgets, confidence, max_drop, min_accuracy
            )
            added |= {"scheduler": name, "fit_seconds": seconds}
            measured[name].append(measure(chosen, predictions, added, energy_model))
            progress.update(1, name)
            source = "read back, had been fitted" if reused else "fitted"
            which = f"{name}, seed {seed}" if seed else name
            progress.line(f"{which}: {source} in {seconds:.1f} s")
    progress.close()
    firsts = {name: of_seeds[0] for name, of_seeds in measured.items()}
    results = _results(predictions, firsts, adjustment)
    if run is not None:
        _add_runs(results, firsts, run)
    if max_drop is None and min_accuracy is None:
        results["comparison"] = compare(
            {name: np.stack([m.exits for m in of]) for name, of in measured.items()},
            _outcomes(adjust_split(adjustment, predictions.test)),
            costs,
            spent={n: np.stack([m.spent for m in of]) for n, of in measured.items()},
            limit=budgets.max(),
            group_size=predictions.samples_per_image,
        )
    return results


def _outcomes(split: Split) -> np.ndarray:
    """Returns what ``compare`` reads: right answers, or confusion matrices."""
    return split.correct if split.confusion is None else split.confusion


def _choose(
    name: str,
    frontier: schedulers_lib.Frontier,
    predictions: Predictions,
    budgets: np.ndarray,
    confidence: float | None,
    max_drop: float | None,
    min_accuracy: float | None,
) -> tuple[Chosen, dict[str, Any]]:
    """Returns the policies asked for, and what their records get."""
    if max_drop is not None:
        policy = frontier.for_drop(max_drop, confidence or DROP_CONFIDENCE)
        return [(None, policy)], {"max_drop": max_drop}
    if min_accuracy is not None:
        try:
            policy = frontier.for_accuracy(min_accuracy, predictions.val)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        return [(None, policy)], {"min_accuracy": min_accuracy}
    return policies_for(frontier, budgets, confidence), {}


def _add_runs(
    results: dict[str, Any], measured: Mapping[str, Measured], run: Run
) -> None:
    policies = [policy for m in measured.values() for policy in m.policies]
    of_each, results["adaptive"] = run(policies)
    for record, found in zip(results["records"], of_each, strict=True):
        record.update(found)


def _fit_key(key: jax.Array, name: str, seed: int) -> jax.Array:
    """Returns a fit's key: hyper-parameters make no other draws."""
    key = jax.random.fold_in(key, zlib.crc32(settings.without(name).encode()))
    return jax.random.fold_in(key, seed) if seed else key


def _results(
    predictions: Predictions,
    measured: Mapping[str, Measured],
    adjustment: schedulers_lib.Adjustment | None,
) -> dict[str, Any]:
    """Builds the results; the bounds are for the exits' adjusted answers."""
    costs, test = predictions.costs, predictions.test
    alone = {part: getattr(predictions, part).exit_accuracy for part in ("val", "test")}
    adjusted = adjust_split(adjustment, test)
    answers = adjusted.exit_accuracy
    budgets = np.linspace(costs[0], costs[-1], NUM_BOUND_BUDGETS)
    # Either knows where a sample will leave and runs no other head, but for ensembles.
    ensemble = adjustment is not None and adjustment.ensemble
    single = predictions.single_exit_costs
    lowest = np.minimum.accumulate(single[::-1])[::-1]  # of this exit or a later one
    bounds = {
        "random": random_mixture(answers, costs if ensemble else single, budgets),
    }
    if predictions.metric == "accuracy":
        bounds["clairvoyant"] = clairvoyant(adjusted, lowest, budgets)
    return {
        "metric": predictions.metric,
        "cost_unit": predictions.cost_unit,
        "costs": costs.tolist(),
        "exit_accuracy": {part: values.tolist() for part, values in alone.items()},
        "adjustment": _adjustment_record(adjustment),
        "class_names": predictions.class_names,
        "exit_class_iou": {
            part: finite_or_none(iou.class_iou(split.confusion.sum(axis=1)))
            for part, split in (("val", predictions.val), ("test", test))
            if split.confusion is not None
        },
        "single_exit_costs": single.tolist(),
        **{
            name: {"budgets": budgets.tolist(), "test_accuracy": values.tolist()}
            for name, values in bounds.items()
        },
        "records": [record for m in measured.values() for record in m.records],
        "comparison": {},
        **{
            part: {n: m.middle[part] for n, m in measured.items() if part in m.middle}
            for part in ("score_quality", "per_class", "examples", "paths")
        },
    }


def _adjustment_record(
    adjustment: schedulers_lib.Adjustment | None,
) -> dict[str, Any]:
    temperature = getattr(adjustment, "temperature", None)
    if temperature is not None:
        temperature = np.asarray(temperature, np.float64).tolist()
    return {
        "temperature": temperature,
        "ensemble": adjustment is not None and adjustment.ensemble,
    }


def policies_for(
    frontier: schedulers_lib.Frontier,
    budgets: np.ndarray,
    confidence: float | None = None,
) -> Chosen:
    """Yields each budget with its policy."""
    for budget in budgets.tolist():
        yield budget, frontier.for_budget(budget, confidence)


def apply_saved(
    path: pathlib.Path,
    budgets: np.ndarray,
    predictions: Predictions,
    *,
    confidence: float | None = None,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    run: Run | None = None,
    energy_model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a saved policy, or a saved fit for each budget, without fitting.

    Args:
      path: A file of ``save_policy`` or of ``policies/``.
      budgets: For a fit; they are kept on the validation part of ``predictions``. A
        policy gets one record, with its validation cost as budget.
      predictions: To measure on.
      confidence: As in ``evaluate``; for a fit that was made with it.
      max_drop: Likewise.
      min_accuracy: As in ``evaluate``; for a fit.
      run: As in ``evaluate``.
      energy_model: Likewise.

    Returns:
      As ``evaluate``; the scheduler is called by the file's name.

    Raises:
      UserError: If the file holds neither, is for another number of exits or classes,
        or cannot give the guarantee asked for.
    """
    options.check_guarantee(predictions, confidence, max_drop)
    saved = schedulers_lib.load(path)
    read = saved.scorer.partition("_")[2]
    if SCORERS[saved.scorer].reads_features and read != predictions.gate_inputs:
        raise UserError(
            f"{path} has gates on {read!r} inputs, the "
            f"predictions features of kind {predictions.gate_inputs!r}; fit them anew"
        )
    chosen = [(None, saved)]
    added = {"scheduler": path.stem, "fit_seconds": 0.0}
    if isinstance(saved, schedulers_lib.Frontier):
        saved = saved.with_costs(predictions)
        chosen, more = _choose(
            path.stem, saved, predictions, budgets, confidence, max_drop, min_accuracy
        )
        added |= more
    elif (confidence, max_drop, min_accuracy) != (None, None, None):
        raise UserError(
            f"{path} holds one policy, which guarantees nothing; leave out "
            "--confidence, --max_drop and --min_accuracy, or give a fit"
        )
    measured = {path.stem: measure(chosen, predictions, added, energy_model)}
    results = _results(predictions, measured, saved.adjustment)
    if run is not None:
        _add_runs(results, measured, run)
    return results
