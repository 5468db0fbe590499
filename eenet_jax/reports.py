"""From a run, or a file of predictions, to its report: what ``evaluate.py`` does."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax import adaptive, evaluation, options, pictures, quantised, trained
from eenet_jax.costs.files import load_costs
from eenet_jax.errors import UserError
from eenet_jax.files import make_directory, write_table
from eenet_jax.measure import Run
from eenet_jax.predictions import Predictions, load_predictions
from eenet_jax.report.files import write_report
from eenet_jax.report.frontier import align

MEASURES = ("test_accuracy", "test_cost")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of ``evaluate.py`` of the same names, whose help says more."""

    mode: str = "budgeted"
    scheduler: str = "all"
    budgets: str = "auto"
    cost: str = "mflops"
    costs: str | None = None
    profile: str | None = None
    confidence: float | None = None
    max_drop: float | None = None
    speedup: str | None = None
    min_accuracy: float | None = None
    temperature: bool = False
    ensemble: bool = False
    policy: str | None = None
    checkpoint: str = "best"
    output: str | None = None
    seed: int = 0
    seeds: int = 1
    latency_batch_size: int = 32
    int8: bool = False
    blocks: str = ""


def report_file(path: pathlib.Path, asked: Options) -> dict[str, Any]:
    """Evaluates saved predictions, prints the report and returns its results."""
    beside = path.with_name(path.name.removesuffix(".npz") + "_eval")
    output = pathlib.Path(asked.output or beside)
    predictions = load_predictions(path)
    return _report(predictions, {}, output, output / "policies", asked, None, None)


def report_run(workdir: pathlib.Path, asked: Options) -> dict[str, Any]:
    """Evaluates a run, prints the report and returns its results."""
    predictions, details = trained.predictions_with_cost(
        workdir,
        asked.checkpoint,
        asked.cost,
        latency_batch_size=asked.latency_batch_size,
        profile=asked.profile,
        int8=asked.int8,
        blocks=asked.blocks,
    )
    if asked.int8:
        details = {**details, "int8": quantised.describe()}
    folder = trained.reports_dir(workdir, asked.int8, asked.blocks)
    run = None
    if asked.mode == "adaptive":
        run = adaptive.runner(
            workdir,
            asked.checkpoint,
            predictions,
            asked.profile,
            int8=asked.int8,
            blocks=asked.blocks,
        )
    load_images = functools.partial(pictures.images_of, workdir, predictions)
    if predictions.metric == "miou":
        load_images = functools.partial(
            pictures.map_source,
            workdir,
            asked.checkpoint,
            int8=asked.int8,
            blocks=asked.blocks,
        )
    return _report(
        predictions,
        details,
        pathlib.Path(asked.output or folder / "eval"),
        folder / "policies",
        asked,
        run,
        load_images,
    )


def report_runs(workdirs: Sequence[pathlib.Path], asked: Options) -> None:
    """Evaluates many runs, each into its own directory, and sums them up.

    Writes ``runs.csv``, a line for each run, scheduler and budget, and ``summary.csv``,
    mean and deviation over the runs, into ``asked.output``.

    Raises:
      UserError: At the end, naming the runs that could not be evaluated.
    """
    output = pathlib.Path(asked.output or "runs_eval")
    make_directory(output, "output")
    rows, failed = [], []
    for i, workdir in enumerate(workdirs):
        print(f"run {i + 1} of {len(workdirs)}, {workdir}:", flush=True)
        try:
            results = report_run(workdir, dataclasses.replace(asked, output=None))
        except UserError as error:
            print(f"failed: {error}", flush=True)
            failed.append(str(workdir))
            continue
        rows += [{"workdir": str(workdir), **record} for record in results["records"]]
    if rows:
        names = ("scheduler", "budget", "val_accuracy", "val_cost", *MEASURES, "met")
        lines = [[str(row[name]) for name in ("workdir", *names)] for row in rows]
        write_table(output / "runs.csv", [["workdir", *names], *lines])
        summary = summarise(rows)
        write_table(output / "summary.csv", summary)
        print("\n".join(["", "Mean and deviation over runs:", *align(summary)]))
        print(f"runs.csv and summary.csv are in {output}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(workdirs)} runs could not be evaluated: "
            f"{'; '.join(failed)}. The reasons are above"
        )


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns a table of mean and deviation over the runs, by scheduler and budget."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        group = row["scheduler"], f"{row['budget']:.6g}"
        groups.setdefault(group, []).append(row)
    head = [f"{name}, {what}" for name in MEASURES for what in ("mean", "deviation")]
    table = [["scheduler", "budget", "runs", *head]]
    for group, of_group in groups.items():
        cells = []
        for name in MEASURES:
            values = [row[name] for row in of_group]
            spread = np.std(values, ddof=1) if len(values) > 1 else None
            cells += [
                f"{np.mean(values):.6g}",
                "" if spread is None else f"{spread:.3g}",
            ]
        table.append([*group, str(len(of_group)), *cells])
    return table


def _report(
    predictions: Predictions,
    details: Mapping[str, Any],
    output: pathlib.Path,
    policies: pathlib.Path,
    asked: Options,
    run: Run | None,
    load_images: Any,
) -> dict[str, Any]:
    """Fits or applies, measures, writes and prints."""
    if asked.costs is not None:
        costs = load_costs(asked.costs, predictions.num_exits)
        predictions = predictions.with_costs(costs.costs, costs.unit)
        details = costs.details
    if asked.speedup is not None:
        budgets = options.parse_speedups(asked.speedup, predictions)
    else:
        budgets = options.parse_budgets(asked.budgets, predictions.costs)
    common = {
        "confidence": asked.confidence,
        "max_drop": asked.max_drop,
        "min_accuracy": asked.min_accuracy,
        "run": run,
        "energy_model": details.get("model"),
    }
    if asked.policy is not None:
        make_directory(output, "output")
        path = pathlib.Path(asked.policy)
        results = evaluation.apply_saved(path, budgets, predictions, **common)
    else:
        names, left_out = options.parse_schedulers(
            asked.scheduler, predictions, asked.ensemble
        )
        make_directory(output, "output")
        results = evaluation.evaluate(
            predictions,
            schedulers=[] if asked.mode == "anytime" else names,
            budgets=budgets,
            key=jax.random.key(asked.seed),
            seeds=asked.seeds,
            policies_dir=policies,
            temperature=asked.temperature,
            ensemble=asked.ensemble,
            **common,
        )
        for lack in dict.fromkeys(left_out.values()):
            lacking = [name for name, of_name in left_out.items() if of_name == lack]
            needs = "needs" if len(lacking) == 1 else "need"
            print(f"left out: {', '.join(lacking)}, which {needs} {lack}")
    results["cost_details"] = details
    for name in ("int8", "energy"):
        if name in details:
            print(f"{name}: {details[name]}")
    print(write_report(results, output, load_images))
    return results
