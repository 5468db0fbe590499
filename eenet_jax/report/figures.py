"""The two figures of an evaluation: the frontier, and who leaves where."""

import itertools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from eenet_jax.files import replacing
from eenet_jax.report.frontier import Results, curves, metric

UNITS = {
    "mflops": "MFLOPs",
    "mparams": "million parameters",
    "latency_ms": "ms",
    "energy_mj": "mJ",
}
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9",
    "#E69F00", "#332288", "#882255", "#999933", "#44AA99",
)  # fmt: skip
MARKERS = "osD^vP*h<"  # of another number, so that pairs repeat late
MAX_COLUMNS = 4  # schedulers side by side


def unit(results: Results) -> str:
    """Returns the costs' unit as axes name it."""
    return UNITS.get(results["cost_unit"], results["cost_unit"])


def styles(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns each scheduler's colour and marker, the same in every figure."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes a PNG file whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")


def save_frontier(results: Results, path: pathlib.Path) -> bool:
    """Draws test accuracy against mean test cost.

    All schedulers, the network cut to one exit, the full network's accuracy, the bound
    of a chooser that knows the answers (where a sample has one class), and the best
    that one gets who ignores the sample.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.

    Returns:
      True: there is always something to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.8))
    axes = figure.add_subplot()
    alone = [100 * a for a in results["exit_accuracy"]["test"]]
    shown = list(alone)
    if bound := results.get("clairvoyant"):
        of_bound = [100 * a for a in bound["test_accuracy"]]
        shown.append(max(of_bound))
        axes.plot(
            bound["budgets"],
            of_bound,
            linestyle="--",
            color="0.55",
            label="clairvoyant bound",
        )
    mixture = results["random"]
    axes.plot(
        mixture["budgets"],
        [100 * a for a in mixture["test_accuracy"]],
        linestyle=":",
        color="black",
        linewidth=1.2,
        label="random mixture of exits",
    )
    axes.axhline(alone[-1], color="0.8", linewidth=1, zorder=0, label="full network")
    by_name = curves(results)
    style = styles(by_name)
    for name, records in by_name.items():
        accuracy = [100 * r["test_accuracy"] for r in records]
        shown += accuracy
        axes.plot(
            [r["test_cost"] for r in records],
            accuracy,
            **style[name],
            markersize=4,
            linewidth=1.4,
            label=name,
        )
    axes.scatter(
        results["single_exit_costs"],
        alone,
        marker="X",
        s=70,
        color="black",
        zorder=5,
        label="one exit for all",
    )
    top = max(shown)
    margin = 0.06 * max(top - min(shown), 1.0)
    axes.set_ylim(min(shown) - margin, top + margin)
    axes.set_xlabel(f"mean cost per test sample, {unit(results)}")
    name = metric(results)
    axes.set_ylabel(f"test {name}, %")
    axes.set_title(f"{name.replace('acc', 'Acc')} against cost")
    axes.grid(alpha=0.25)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return True


def save_exits(results: Results, path: pathlib.Path) -> bool:
    """Draws, for each scheduler and budget, who leaves where and how right they are.

    Without records, the accuracy of every exit.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.

    Returns:
      True: there is always something to draw.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    by_name = curves(results)
    if not by_name:
        figure = Figure(figsize=(6, 4))
        _draw_exits(figure.add_subplot(), results["exit_accuracy"], metric(results))
        save(figure, path)
        return True
    num_exits = len(results["costs"])
    places = [0.08 + 0.84 * k / num_exits for k in range(num_exits)]
    colours = colormaps["viridis_r"](places)
    columns = min(len(by_name), MAX_COLUMNS)
    bands = -(-len(by_name) // columns)
    figure = Figure(figsize=(1.2 + 3.1 * columns, 0.4 + 5 * bands), layout="tight")
    grid = figure.subplots(2 * bands, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, records) in enumerate(by_name.items()):
        band, column = divmod(i, columns)
        shares, accuracies = grid[2 * band : 2 * band + 2, column]
        _draw_shares(shares, records, colours)
        _draw_accuracies(accuracies, records, colours)
        shares.set_title(name)
        accuracies.set_xlabel(f"budget, {unit(results)}")
        accuracies.sharex(shares)
        accuracies.sharey(grid[1, 0])
        for axes in (shares, accuracies):
            axes.set_visible(True)
            axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            shares.set_ylabel("share of test samples, %")
            name = metric(results)
            accuracies.set_ylabel(f"{name} of those leaving, %\n(area: how many)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper center", ncols=num_exits, frameon=False,
        bbox_to_anchor=(0.5, 1.02),
    )  # fmt: skip
    save(figure, path)
    return True


def _draw_exits(
    axes: Any, accuracy: Mapping[str, list[float]], name_of_accuracy: str
) -> None:
    """Draws validation and test accuracy of every exit, for all samples."""
    places = range(1, len(accuracy["test"]) + 1)
    for part, shift, name in (("val", -0.2, "validation"), ("test", 0.2, "test")):
        heights = [100 * a for a in accuracy[part]]
        bars = axes.bar([p + shift for p in places], heights, 0.38, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    low = 100 * min(map(min, accuracy.values()))
    axes.set_ylim(max(0.0, low - 0.5 * (101 - low)), 101)
    axes.set_xticks(places)
    axes.set_xlabel("exit")
    axes.set_ylabel(f"{name_of_accuracy}, %")
    axes.set_title("Every exit for all samples")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_shares(axes: Any, records: list[Mapping[str, Any]], colours: Any) -> None:
    budgets = [r["budget"] for r in records]
    gaps = [b - a for a, b in itertools.pairwise(budgets) if b > a]
    width = 0.92 * min(gaps) if gaps else 0.5 * (budgets[0] or 1.0)
    bottom = [0.0] * len(records)
    for k, colour in enumerate(colours):
        share = [100 * r["exit_fraction"][k] for r in records]
        axes.bar(budgets, share, width, bottom, color=colour, label=f"exit {k + 1}")
        bottom = [b + s for b, s in zip(bottom, share, strict=True)]
    axes.set_ylim(0, 100)


def _draw_accuracies(axes: Any, records: list[Mapping[str, Any]], colours: Any) -> None:
    """Draws accuracy where taken; a point's area is the share that left there."""
    for k, colour in enumerate(colours):
        taken = [r for r in records if r["exit_fraction"][k] > 0]
        budgets = [r["budget"] for r in taken]
        accuracy = [100 * r["accuracy_where_taken"][k] for r in taken]
        areas = [1 + 60 * r["exit_fraction"][k] for r in taken]
        axes.plot(budgets, accuracy, color=colour, linewidth=0.8)
        axes.scatter(budgets, accuracy, areas, color=colour)
    axes.grid(alpha=0.25)
