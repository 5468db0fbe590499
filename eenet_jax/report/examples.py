"""The figure of the examples: images that left at each exit, answered well or not."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eenet_jax.data import stream
from eenet_jax.data.datasets import Dataset, Split
from eenet_jax.data.stream import StreamSplit
from eenet_jax.examples import MOST_CLASSES
from eenet_jax.report.classes import shown_scheduler
from eenet_jax.report.figures import COLOURS, save, unit
from eenet_jax.report.frontier import Results

ROWS = {"right": COLOURS[2], "wrong": COLOURS[1]}
CELL, GAP = 0.9, 0.1  # of an image, in inches, as all that follows
FLAT = 0.16  # of the cells of a row that has no image
LEFT, TOP = 0.9, 0.75  # of the first column, of the first exit
HEAD, CAPTION, BELOW = 0.5, 0.2, 0.28  # above, under a row, and after an exit
LONGEST = 13  # characters of a class's name


def save_examples(
    results: Results, path: pathlib.Path, dataset: Dataset | None
) -> bool:
    """Draws test images by the exit where they left, one column a class.

    Of the scheduler and budget that the figure of the classes has, too: for each exit
    a row of answers that were right and a row of wrong ones, the surest of each class.

    Args:
      results: What ``evaluation.evaluate`` returned.
      path: The PNG file.
      dataset: What the results are of; only the images shown are decoded.

    Returns:
      Whether there was something to draw: schedulers, and images to show.

    Raises:
      UserError: If an image cannot be read.
    """
    of_all = results.get("examples")
    if not of_all or dataset is None or dataset.kind != "image":
        return False
    from matplotlib.figure import Figure

    name = shown_scheduler(of_all)
    exits = of_all[name]["exits"]
    pictures = read_images(dataset.test, shown_rows(exits))
    names = class_names(dataset)
    tops = np.cumsum([TOP, *(_height(of_exit) for of_exit in exits)])
    columns = max(len(of_exit["classes"]) for of_exit in exits)
    width, height = LEFT + columns * (CELL + GAP), tops[-1]
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # its unit is the inch, from the top left
    budget = f"{of_all[name]['budget']:.4g} {unit(results)}"
    title = f"Test images by the exit where they left: {name}, budget {budget}"
    axes.text(0, 0.15, title, fontsize=12, va="center")
    axes.text(0, 0.42, _explanation(dataset), fontsize=8, va="center", color="0.35")
    total = sum(of_exit["samples"] for of_exit in exits)
    for k, of_exit in enumerate(exits):
        axes.text(0, tops[k] + 0.12, _heading(k, of_exit, total), va="center")
        if of_exit["samples"]:
            _draw_exit(axes, tops[k] + HEAD, of_exit, pictures, names)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    save(figure, path)
    return True


def shown_rows(exits: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the places of all samples that are shown; each left at one exit."""
    return [e["row"] for of in exits for name in ROWS for e in of[name] if e]


def read_images(split: Split, rows: Sequence[int]) -> dict[int, np.ndarray]:
    """Returns the images at ``rows``, uint8 ``[H, W, C]``, and decodes no others."""
    index = np.asarray(rows, np.int64)
    if isinstance(split, StreamSplit):
        batches = stream.eval_batches(
            split.subset(index), batch_size=len(index), num_workers=0
        )
        images = np.concatenate([images for images, _, _ in batches])
    else:
        images = split.images[index]
    return dict(zip(rows, images, strict=True))


def class_names(dataset: Dataset) -> list[str]:
    """Returns what classes are called, shortened; their numbers if it is not known.

    Beginning and end are kept, since names often differ in one of them only.
    """
    names = dataset.class_names or map(str, range(dataset.num_classes))
    end = LONGEST // 2
    return [n if len(n) <= LONGEST else f"{n[:end]}…{n[-end:]}" for n in names]


def _explanation(dataset: Dataset) -> str:
    most = ""
    if dataset.num_classes > MOST_CLASSES:
        most = f", for the {MOST_CLASSES} classes that most often leave at the exit"
    return (
        "Columns are true classes, with the surest right and the surest wrong answer "
        f"of each{most}.\nBelow an image: the answer's probability, and what a wrong "
        "one was. Grey: there is none."
    )


def _heading(k: int, of_exit: Mapping[str, Any], total: int) -> str:
    if not of_exit["samples"]:
        return f"Exit {k + 1}: no test sample leaves here"
    share, accuracy = of_exit["samples"] / total, of_exit["accuracy"]
    return (
        f"Exit {k + 1}: {100 * share:.1f} % of the test samples leave here, "
        f"{100 * accuracy:.1f} % of them answered rightly"
    )


def _height(of_exit: Mapping[str, Any]) -> float:
    """Returns what an exit takes; one where nobody leaves has a heading only."""
    if not of_exit["samples"]:
        return HEAD
    return HEAD + sum(_row_height(of_exit[name]) + CAPTION for name in ROWS) + BELOW


def _row_height(row: Sequence[Any]) -> float:
    return CELL if any(row) else FLAT


def _draw_exit(
    axes: Any,
    top: float,
    of_exit: Mapping[str, Any],
    pictures: Mapping[int, np.ndarray],
    names: Sequence[str],
) -> None:
    """Draws both rows of an exit, with the classes' names above."""
    for i, c in enumerate(of_exit["classes"]):
        _write(axes, _centre(i), top - 0.1, names[c], fontsize=8.5)
    right = round(of_exit["samples"] * of_exit["accuracy"])
    counts = {"right": right, "wrong": of_exit["samples"] - right}
    for name, colour in ROWS.items():
        height = _row_height(of_exit[name])
        middle = top + height / 2
        label = f"{counts[name]} {name}"
        _write(axes, LEFT - GAP, middle, label, ha="right", fontsize=10, color=colour)
        for i, example in enumerate(of_exit[name]):
            if example is None:
                _draw_empty(axes, _centre(i), middle, height)
                continue
            _draw_image(axes, _centre(i), middle, pictures[example["row"]], colour)
            caption = _percent(example["probability"])
            if name == "wrong":
                caption = f"as {names[example['answer']]}\n{caption}"
            place = _centre(i), top + height + 0.03
            _write(axes, *place, caption, va="top", fontsize=7)
        top += height + CAPTION


def _draw_image(axes: Any, x: float, y: float, image: np.ndarray, colour: str) -> None:
    """Draws an image as large as its cell allows, centred, in its proportions."""
    height, width = CELL * np.array(image.shape[:2]) / max(image.shape[:2])
    edges = (x - width / 2, x + width / 2, y + height / 2, y - height / 2)
    grey = image.shape[-1] == 1
    axes.imshow(
        image[..., 0] if grey else image,
        extent=edges,
        aspect="auto",
        **({"cmap": "gray", "vmin": 0, "vmax": 255} if grey else {}),
    )
    _draw_frame(axes, x, y, width, height, facecolor="none", edgecolor=colour)


def _draw_empty(axes: Any, x: float, y: float, height: float) -> None:
    _draw_frame(axes, x, y, CELL, height, facecolor="0.93", edgecolor="none")


def _draw_frame(
    axes: Any, x: float, y: float, width: float, height: float, **colours: str
) -> None:
    from matplotlib.patches import Rectangle

    corner = (x - width / 2, y - height / 2)
    axes.add_patch(Rectangle(corner, width, height, linewidth=1.2, **colours))


def _write(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Writes centred text; a dollar in a class's name is one."""
    style = {"ha": "center", "va": "center", **style}
    axes.text(x, y, text, parse_math=False, **style)


def _centre(column: int) -> float:
    return LEFT + column * (CELL + GAP) + CELL / 2


def _percent(probability: float) -> str:
    return ">99 %" if probability >= 0.995 else f"{100 * probability:.0f} %"
