"""The figure of the comparison: who is how much better, at equal cost."""

import pathlib
import statistics
from collections.abc import Collection

from eenet_jax.report.figures import save, styles, unit
from eenet_jax.report.frontier import Results, metric

CUT = 2.5  # times the median scheduler's lowest point: below it, curves are cut off


def save_comparison(results: Results, path: pathlib.Path) -> bool:
    """Draws the differences to the reference scheduler along the common cost range.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.

    Returns:
      Whether there was something to draw: at least two schedulers.
    """
    comparison = results.get("comparison") or {"schedulers": {}}
    schedulers = comparison["schedulers"]
    if len(schedulers) < 2:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 5.4))
    axes = figure.add_subplot()
    costs = comparison["costs"]["grid"]
    style = styles(schedulers)
    reference = comparison["reference"]
    axes.axhline(0, color=style[reference]["color"], linewidth=1.6, label=reference)
    others = {n: found["grid"] for n, found in schedulers.items() if n != reference}
    lows = {n: 100 * min(low for low, _ in g["interval"]) for n, g in others.items()}
    bottom = _bottom(lows.values())
    top = max(100 * high for g in others.values() for _, high in g["interval"])
    for name, grid in others.items():
        low, high = ([100 * pair[i] for pair in grid["interval"]] for i in (0, 1))
        difference = [100 * d for d in grid["difference"]]
        colour = style[name]["color"]
        hidden = min(difference) < bottom
        label = f"{name} (down to {min(difference):.1f})" if hidden else name
        axes.fill_between(costs, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            costs, difference, **style[name], markersize=4, linewidth=1.4, label=label
        )
    margin = 0.06 * max(top - bottom, 0.1)
    axes.set_ylim(bottom - margin, max(top, 0.0) + margin)
    seeds = comparison["seeds"]
    share = f"{100 * comparison['confidence']:.0f} %"
    fits = f", mean of {seeds} fits" if seeds > 1 else ""
    title = f"Difference at equal cost, {share} intervals over test samples{fits}"
    axes.set_title(title)
    axes.set_xlabel(f"mean cost per test sample, {unit(results)}")
    axes.set_ylabel(f"test {metric(results)} less that of {reference}, points")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(**place, ncols=4, frameon=False)
    save(figure, path)
    return True


def _bottom(lows: Collection[float]) -> float:
    """Returns where to cut the axis so that a far worse curve hides no others."""
    return min(0.0, max(min(lows), CUT * statistics.median(lows)))
