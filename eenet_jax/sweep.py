"""Sweeps: many runs from one config file, which says what may vary.

    def sweep():
        yield "lr", {"optimizer.learning_rate": (0.05, 0.1, 0.2)}
        yield "size", {"model.options.depth": (8, 14), "model.options.width": (16, 8)}

The fields of an axis change together, and the axes that ``--sweep=lr,seed`` names are
multiplied. Every file has the axis "seed" (0, 1, 2) unless it says otherwise.
"""

import dataclasses
import itertools
import pathlib
import re
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from eenet_jax.errors import UserError

Axes = Mapping[str, Mapping[str, Sequence[Any]]]
SEEDS: Axes = {"seed": {"seed": (0, 1, 2)}}


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: Its directory's, from the values that it has.
      changes: Value of every field that the sweep sets, by its path.
    """

    name: str
    changes: Mapping[str, Any]


def read_axes(path: str | pathlib.Path) -> Axes:
    """Returns the axes of a config file, by name.

    Raises:
      UserError: If an axis has no values, or fields with unequally many.
    """
    sweep = runpy.run_path(str(path)).get("sweep", lambda: ())
    axes = {**SEEDS, **dict(sweep())}
    for name, fields in axes.items():
        lengths = {field: len(values) for field, values in fields.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise UserError(
                f"{path}: the axis {name!r} of sweep() must have fields with equally "
                f"many values, at least one; it has {lengths}"
            )
    return axes


def points(axes: Axes, text: str) -> list[Point]:
    """Returns the runs of ``--sweep``, the last axis changing fastest.

    Args:
      axes: By name.
      text: Names of axes with commas between.

    Raises:
      UserError: If a name is unknown or given twice, two axes set the same field, or
        two runs would have the same directory.
    """
    names = text.split(",")
    for name in names:
        if name not in axes or names.count(name) > 1:
            raise UserError(
                f"--sweep={text}: {name!r} must be one of the axes {sorted(axes)}, and "
                "be given once"
            )
    fields = [field for name in names for field in axes[name]]
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
        raise UserError(f"--sweep={text}: two axes set {', '.join(twice)}; choose one")
    places = [
        [dict(zip(axes[name], values, strict=True)) for values in _zipped(axes[name])]
        for name in names
    ]
    found = []
    for parts in itertools.product(*places):
        changes = {field: value for part in parts for field, value in part.items()}
        found.append(Point(_name(changes), changes))
    directories = [point.name for point in found]
    for name in directories:
        if directories.count(name) > 1:
            raise UserError(f"--sweep={text}: two runs would both be called {name}")
    return found


def change(config: ml_collections.ConfigDict, point: Point) -> Any:
    """Returns a copy of a config with the values of a run.

    Raises:
      UserError: If a field is unknown or cannot hold its value.
    """
    changed = config.copy_and_resolve_references()
    for field, value in point.changes.items():
        try:
            changed.update_from_flattened_dict({field: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            text = " ".join(str(error).split())
            raise UserError(f"sweep(): {field}={value!r}: {text}") from None
    return changed


def listing(runs: Sequence[Point]) -> str:
    """Returns a line for every run: its index, directory and values."""
    lines = []
    for index, point in enumerate(runs):
        values = " ".join(f"{f}={v!r}" for f, v in point.changes.items())
        lines.append(f"{index:4d}  {point.name}  {values}")
    return "\n".join(lines)


def _zipped(fields: Mapping[str, Sequence[Any]]) -> list[tuple[Any, ...]]:
    return list(zip(*fields.values(), strict=True))


def _name(changes: Mapping[str, Any]) -> str:
    """Returns a directory's name: the last part of each field, and its value."""
    last = [field.rpartition(".")[2] for field in changes]
    parts = []
    for field, short in zip(changes, last, strict=True):
        value = re.sub(r"[^\w.+()=,-]+", "-", str(changes[field]).replace(" ", ""))
        parts.append(f"{field if last.count(short) > 1 else short}={value}")
    return ",".join(parts)
