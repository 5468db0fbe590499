"""The figure of the classes: how right a scheduler is on each, and at what cost."""

import pathlib
from collections.abc import Iterable
from typing import Any

from eenet_jax.report.figures import COLOURS, save, unit
from eenet_jax.report.frontier import Results

SCHEDULER = "lagrangian"
MOST_SHOWN = 30  # half of them the cheapest, half the dearest


def save_classes(results: Results, path: pathlib.Path) -> bool:
    """Draws accuracy and mean cost of each class, the cheapest class at the top.

    Those of ``lagrangian``, or of the last scheduler, at the budget nearest to the
    middle of the cost range.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.

    Returns:
      Whether there was something to draw.
    """
    of_all = results.get("per_class")
    if not of_all:
        return False
    from matplotlib.figure import Figure

    name = shown_scheduler(of_all)
    measured = of_all[name]
    classes, gap, title = shown_classes(measured["cost"])
    places = [i + (gap is not None and i >= gap) for i in range(len(classes))]
    figure = Figure(
        figsize=(8.4, 1.5 + 0.25 * max(len(places), 4)), layout="constrained"
    )
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    accuracy = [100 * measured["accuracy"][c] for c in classes]
    cost = [measured["cost"][c] for c in classes]
    low = max(0.0, min(accuracy) - 0.15 * (100 - min(accuracy)) - 2)
    left.hlines(places, low, accuracy, color="0.85", linewidth=1)
    left.plot(accuracy, places, "o", color=COLOURS[0], markersize=6)
    left.set_xlim(low, 101)
    left.set_xlabel("test accuracy, %")
    left.set_ylabel("class")
    left.set_yticks(places, [str(c) for c in classes])
    left.set_ylim(max(places) + 0.7, -0.7)
    right.barh(places, cost, 0.7, color=COLOURS[4])
    right.set_xlabel(f"mean cost, {unit(results)}")
    _draw_exit_costs(right, results["costs"])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    budget = f"{measured['budget']:.4g} {unit(results)}"
    figure.suptitle(f"{title}: {name}, budget {budget}")
    save(figure, path)
    return True


def shown_scheduler(names: Iterable[str]) -> str:
    """Returns whose middle budget is drawn: ``lagrangian``, or else the last one."""
    names = list(names)
    return SCHEDULER if SCHEDULER in names else names[-1]


def shown_classes(cost: list[float | None]) -> tuple[list[int], int | None, str]:
    """Chooses the classes to show.

    Args:
      cost: Mean cost of each class, None for one without samples.

    Returns:
      The classes by rising cost, how many stand before the gap (None if all are
      shown), and what the title calls them.
    """
    present = [c for c, value in enumerate(cost) if value is not None]
    order = sorted(present, key=cost.__getitem__)
    if len(order) <= MOST_SHOWN:
        return order, None, "Classes by mean cost"
    half = MOST_SHOWN // 2
    title = f"The {half} cheapest and {half} dearest of {len(order)} classes"
    return order[:half] + order[-half:], half, title


def _draw_exit_costs(axes: Any, costs: list[float]) -> None:
    """Marks what leaving at each exit costs, above the bars."""
    for cost in costs:
        axes.axvline(cost, color="0.45", linewidth=0.9, linestyle=":")
    top = axes.secondary_xaxis("top")
    step = costs[-1] / 9  # exits nearer than this share a place
    labels, last = {}, -float("inf")
    for k, cost in enumerate(costs):
        if cost - last > step or cost == last:
            labels[cost] = f"exit {k + 1}"
            last = cost
    top.set_xticks(list(labels), list(labels.values()))
    top.tick_params(length=0, labelsize=9)
    top.spines["top"].set_visible(False)
    axes.set_xlim(0, 1.04 * costs[-1])
