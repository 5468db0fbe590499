"""The figure of label maps: images, labels and the answers of every exit."""

import pathlib

import numpy as np

from eenet_jax.map_examples import MapSource
from eenet_jax.report.classes import shown_scheduler
from eenet_jax.report.figures import save, unit
from eenet_jax.report.frontier import Results

WIDTH = 2.3  # of a picture, in inches


def save_maps(results: Results, path: pathlib.Path, source: MapSource) -> bool:
    """Draws test images, labels, each exit's answer, the policy's, and its exits.

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
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    name = shown_scheduler(of_all)
    shown = of_all[name]["exits"]
    pictures = source.read([each["row"] for each in shown])
    num_exits = len(pictures.answers)
    columns = num_exits + 4
    height = WIDTH * pictures.images.shape[1] / pictures.images.shape[2]
    size = (columns * WIDTH, len(shown) * (height + 0.25) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    steps = colormaps["viridis_r"](np.linspace(0.08, 0.92, num_exits))
    for i, (each, row) in enumerate(zip(shown, grid, strict=True)):
        taken = np.asarray(each["exits"])[pictures.block]  # [H, W]
        answered = np.take_along_axis(pictures.answers[:, i], taken[None], axis=0)[0]
        maps = [pictures.labels[i], *pictures.answers[:, i], answered]
        painted = [colour(each_map, source.colours) for each_map in maps]
        of_exits = (255 * steps[taken, :3]).astype(np.uint8)
        drawn = (pictures.images[i], *painted, of_exits)
        for axes, picture in zip(row, drawn, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        for k, axes in enumerate(row[2 : 2 + num_exits]):
            axes.set_title(f"exit {k + 1}: IoU {100 * each['iou'][k]:.0f} %", size=9)
        row[0].set_ylabel(f"image {each['row']}", size=9)
    titles = {0: "image", 1: "label", -2: "answered", -1: "exit taken"}
    for place, title in titles.items():
        grid[0, place].set_title(title, size=9)
    of_classes = zip(source.class_names, source.colours / 255, strict=True)
    of_steps = ((f"exit {k + 1}", step) for k, step in enumerate(steps))
    handles = [Patch(color=c, label=label) for label, c in (*of_classes, *of_steps)]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 12),
        frameon=False, fontsize=8,
    )  # fmt: skip
    budget = f"{of_all[name]['budget']:.4g} {unit(results)}"
    figure.suptitle(f"Test images, from early to late exits: {name}, budget {budget}")
    save(figure, path)
    return True


def colour(classes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paints a map of classes, uint8 ``[H, W] -> [H, W, 3]``; others are white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table[classes]
