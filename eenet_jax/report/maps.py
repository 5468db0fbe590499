"""The figure of label maps: images, labels and the answers of every exit."""

import pathlib
from typing import Any

import numpy as np

from eenet_jax.map_examples import MapSource
from eenet_jax.report.classes import shown_scheduler
from eenet_jax.report.figures import save, unit
from eenet_jax.report.frontier import Results

WIDTH = 2.3  # of a picture, in inches
TAKEN = "#D55E00"  # frame of the answer that was taken


def save_maps(results: Results, path: pathlib.Path, source: MapSource) -> bool:
    """Draws test images, their labels and each exit's answer, the one taken framed.

    Of the scheduler and budget that other figures show. Void pixels are white.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.
      source: Of the pictures.

    Returns:
      Whether there was something to draw: schedulers.
    """
    of_all = results.get("examples")
    if not of_all:
        return False
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    name = shown_scheduler(of_all)
    shown = of_all[name]["exits"]
    pictures = source.read([each["row"] for each in shown])
    num_exits = len(pictures.answers)
    height = WIDTH * pictures.images.shape[1] / pictures.images.shape[2]
    size = ((num_exits + 2) * WIDTH, len(shown) * (height + 0.25) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(shown), num_exits + 2, squeeze=False)
    for i, (each, row) in enumerate(zip(shown, grid, strict=True)):
        label = colour(pictures.labels[i], source.colours)
        maps = [colour(answer, source.colours) for answer in pictures.answers[:, i]]
        for axes, picture in zip(row, (pictures.images[i], label, *maps), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        for k, axes in enumerate(row[2:]):
            axes.set_title(f"exit {k + 1}: IoU {100 * each['iou'][k]:.0f} %", size=9)
        _frame(row[2 + each["exit"]])
        row[0].set_ylabel(f"image {each['row']}", size=9)
    grid[0, 0].set_title("image", size=9)
    grid[0, 1].set_title("label", size=9)
    handles = [
        Patch(color=np.asarray(rgb) / 255, label=class_name)
        for class_name, rgb in zip(source.class_names, source.colours, strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 11),
        frameon=False, fontsize=8,
    )  # fmt: skip
    budget = f"{of_all[name]['budget']:.4g} {unit(results)}"
    figure.suptitle(f"Answers of all exits, taken ones framed: {name}, budget {budget}")
    save(figure, path)
    return True


def colour(classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paints a map of classes, uint8 ``[H, W] -> [H, W, 3]``; others are white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table[classes]


def _frame(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set(color=TAKEN, linewidth=3)
