"""Costs per exit that the user gives in a file."""

import csv
import json
import pathlib

import numpy as np

from eenet_jax.costs.exits import ExitCosts
from eenet_jax.errors import UserError


def load_costs(path: str | pathlib.Path, num_exits: int) -> ExitCosts:
    """Reads K cumulative costs.

    Args:
      path: JSON, a list of numbers or ``{"costs": [...], "cost_unit": "..."}``; or CSV
        with one row or one column of numbers, a heading allowed. Without a unit, it is
        called by the file's name, as "seconds" of seconds.csv.
      num_exits: K.

    Raises:
      UserError: If the file cannot be read or does not hold K numbers.
    """
    path = pathlib.Path(path)
    unit = path.stem
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            found = _column(text)
        else:
            found = json.loads(text)
            if isinstance(found, dict):
                unit = str(found.get("cost_unit", unit))
                found = found["costs"]
        costs = np.array(found, np.float64)
    except OSError as error:
        raise UserError(f"--costs={path} cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--costs={path} holds no list of costs ({error!r}); give {num_exits} "
            "numbers as JSON or CSV"
        ) from None
    if costs.shape != (num_exits,):
        raise UserError(
            f"--costs={path} holds numbers of shape {list(costs.shape)}; the network "
            f"has {num_exits} exits: give one cumulative cost for each"
        )
    return ExitCosts(costs, None, unit, {"costs_file": str(path)})


def _column(text: str) -> list[float]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if rows and not _is_number(rows[0][-1]):
        rows = rows[1:]
    cells = rows[0] if len(rows) == 1 else [row[-1] for row in rows]
    return [float(cell) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
