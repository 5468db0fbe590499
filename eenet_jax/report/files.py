"""The report's directory: ``results.json``, figures, and the tables to print."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from eenet_jax.data.datasets import Dataset
from eenet_jax.errors import UserError
from eenet_jax.files import make_directory, write_text
from eenet_jax.map_examples import MapSource
from eenet_jax.report import (
    classes,
    comparison,
    examples,
    figures,
    frontier,
    maps,
    paths,
    wall,
)

FIGURES = {
    "frontier.png": figures.save_frontier,
    "exits.png": figures.save_exits,
    "comparison.png": comparison.save_comparison,
    "classes.png": classes.save_classes,
}


def write_report(
    results: Mapping[str, Any],
    output: pathlib.Path,
    load_images: Callable[[], Dataset | MapSource | None] | None = None,
) -> str:
    """Writes ``results.json`` and the figures for which there is something to draw.

    Args:
      results: What ``evaluate`` returned.
      output: Directory; made if it is not there. A figure that an earlier report left
        and that this one has nothing for is removed.
      load_images: Returns the data that the results are of, or None for texts, or for
        label maps where pictures come from; called only if there is something to show
        of them. A set that cannot be read costs the report no more than this figure.

    Returns:
      The tables to print, what has been written, and what could not be.
    """
    make_directory(output, "output")
    text = json.dumps(results, indent=2, allow_nan=False) + "\n"
    write_text(output / "results.json", text)
    written = ["results.json"]
    for name, save in FIGURES.items():
        if save(results, output / name):
            written.append(name)
        else:
            (output / name).unlink(missing_ok=True)
    path, lacks = output / "examples.png", []
    try:
        found = load_images() if load_images and results.get("examples") else None
        of_maps = isinstance(found, MapSource)
        draw = maps.save_maps if of_maps else examples.save_examples
        if draw(results, path, found):
            written.append(path.name)
    except UserError as error:
        lacks.append(f"left out: {path.name}; {error}")
    if path.name not in written:
        path.unlink(missing_ok=True)
    listed = f"{', '.join(written[:-1])} and {written[-1]} are in {output}"
    tables = [frontier.table(results)]
    if results.get("paths"):
        tables.append(paths.table(results))
    if "adaptive" in results:
        tables.append(wall.table(results))
    return "\n\n".join([*tables, listed, *lacks])
