"""Runs the runs of a sweep, keeps what became of each, and sums them up."""

import json
import pathlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from eenet_jax import processes, sweep
from eenet_jax.errors import Preempted, UserError
from eenet_jax.files import write_table, write_text
from eenet_jax.predictions import Predictions
from eenet_jax.report.frontier import align
from eenet_jax.training.loop import check_workdir

FILE = "run.json"  # in the directory of each run
Run = Callable[[ml_collections.ConfigDict, pathlib.Path], Predictions]


def run_points(
    points: Sequence[sweep.Point],
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    run: Run,
    index: int | None = None,
) -> list[dict[str, Any]]:
    """Takes every run that is not finished in turn; one that fails stops no other.

    A run that was stopped goes on, one that had failed is tried again. The tables in
    ``workdir`` are written anew after each.

    Args:
      points: Of the sweep.
      config: What they change.
      workdir: Of the sweep; each run has a directory there.
      run: Trains one and returns its predictions.
      index: The only one to run; None for all.

    Returns:
      What became of each point, as ``states``.

    Raises:
      UserError: If a field cannot hold its value, a directory has a run of another
        config, or there is no such index.
    """
    if index is not None and not 0 <= index < len(points):
        raise UserError(f"--sweep_index={index} must be from 0 to {len(points) - 1}")
    configs = [sweep.change(config, point) for point in points]
    for point, changed in zip(points, configs, strict=True):
        check_workdir(changed, workdir / point.name)
    chosen = range(len(points)) if index is None else [index]
    for i in chosen:
        folder = workdir / points[i].name
        if _state(folder)["state"] == "finished":
            print(f"run {i}, {points[i].name}: finished before")
            continue
        print(f"run {i} of {len(points)}, {points[i].name}:", flush=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error}") from None
        became = _attempt(run, configs[i], folder)
        if processes.is_first():
            write_text(folder / FILE, json.dumps(became, indent=2) + "\n")
            write_tables(states(points, workdir), workdir)
    return states(points, workdir)


def _attempt(
    run: Run, config: ml_collections.ConfigDict, folder: pathlib.Path
) -> dict[str, Any]:
    try:
        predictions = run(config, folder)
    except Preempted:
        raise
    except UserError as error:
        print(f"failed: {error}", flush=True)
        return {"state": "failed", "error": str(error)}
    except Exception as error:  # a bug, or no memory: the others go on all the same
        traceback.print_exc()
        return {"state": "failed", "error": f"{type(error).__name__}: {error}"}
    return {
        "state": "finished",
        "costs": predictions.costs.tolist(),
        "cost_unit": predictions.cost_unit,
        **{
            f"{part}_accuracy": getattr(predictions, part).exit_accuracy.tolist()
            for part in ("val", "test")
        },
    }


def _state(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        begun = (folder / "config.json").exists()
        return {"state": "stopped" if begun else "not begun"}
    except ValueError as error:
        raise UserError(
            f"{folder / FILE} is damaged ({error}); remove it, and the run is looked "
            "at anew"
        ) from None


def states(
    points: Sequence[sweep.Point], workdir: pathlib.Path
) -> list[dict[str, Any]]:
    """Returns what became of each run: its name, changes, state, accuracies, error."""
    return [
        {"name": p.name, "changes": p.changes, **_state(workdir / p.name)}
        for p in points
    ]


def write_tables(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> None:
    """Writes ``sweep.csv``, a line a run, and ``summary.csv``, a line for all seeds."""
    write_table(workdir / "sweep.csv", _run_table(rows))
    write_table(workdir / "summary.csv", _seed_table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns both tables for a terminal."""
    parts = [*align(_run_table(rows)), "", *align(_seed_table(rows))]
    return "\n".join(parts)


def _run_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    fields = list(rows[0]["changes"])
    exits = max(len(row.get("test_accuracy", ())) for row in rows)
    names = [f"exit_{k} %" for k in range(1, exits + 1)]
    lines = [["index", *fields, "state", *names, "error"]]
    for i, row in enumerate(rows):
        shares = [f"{100 * a:.2f}" for a in row.get("test_accuracy", ())]
        shares += [""] * (exits - len(shares))
        values = [str(row["changes"][field]) for field in fields]
        lines.append([str(i), *values, row["state"], *shares, row.get("error", "")])
    return lines


def _seed_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Mean and deviation over the runs that differ in their seed only."""
    fields = [field for field in rows[0]["changes"] if field != "seed"]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        group = tuple(str(row["changes"][field]) for field in fields)
        groups.setdefault(group, []).append(row)
    measures = ("last exit", "mean of exits")
    lines = [[*fields, "finished", *(f"{m}, {s} %" for m in measures for s in _SPREAD)]]
    for group, of_group in groups.items():
        found = [row["test_accuracy"] for row in of_group if "test_accuracy" in row]
        cells = []
        for measure in (lambda a: a[-1], np.mean):
            values = [100 * measure(a) for a in found]
            cells.append(f"{np.mean(values):.2f}" if values else "")
            cells.append(f"{np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
        lines.append([*group, f"{len(found)} of {len(of_group)}", *cells])
    return lines


_SPREAD = ("mean", "deviation")
