"""The table of policies that skip exits: what each exit is asked, and by whom."""

from collections.abc import Mapping
from typing import Any

from eenet_jax.report.frontier import Results, align

COLUMNS = ("asked", "left", "accuracy", "hit", "late", "early")


def table(results: Results) -> str:
    """Formats ``results["paths"]`` for a terminal, scheduler by scheduler."""
    unit, parts = results["cost_unit"], []
    for name, found in results["paths"].items():
        rows = [["exit", *(f"{column} %" for column in COLUMNS), f"cost, {unit}"]]
        for k, cost in enumerate(found["cost"]):
            shares = (_at(found[column], k) for column in COLUMNS)
            cells = ["-" if s is None else f"{100 * s:.1f}" for s in shares]
            rows.append([f"{k + 1}", *cells, "-" if cost is None else f"{cost:.4g}"])
        tests = sum(found["asked"])
        parts += [
            f"Exits that {name} asks at budget {found['budget']:.4g} {unit}, and what "
            f"its forecasts come to; {tests:.2f} heads a sample, of "
            f"{_without(found):.2f} if all on the way were run:",
            *align(rows),
            *found["unasked"],
            *([_dvfs(found["dvfs"])] if "dvfs" in found else []),
            "",
        ]
    return "\n".join(parts).rstrip()


def _dvfs(found: Mapping[str, float]) -> str:
    return (
        f"With DVFS, modelled: {found['energy_mj']:.4g} mJ a sample in "
        f"{found['ms']:.4g} ms; at the highest level {found['highest_mj']:.4g} mJ in "
        f"{found['highest_ms']:.4g} ms; the full network {found['full_mj']:.4g} mJ in "
        f"{found['full_ms']:.4g} ms, and {100 * found['late']:.1f} % take longer."
    )


def _at(values: list[Any], k: int) -> float | None:
    return values[k] if k < len(values) else None


def _without(found: Mapping[str, Any]) -> float:
    """Returns the heads on a sample's way, asked or not."""
    return sum((k + 1) * share for k, share in enumerate(found["left"]))
