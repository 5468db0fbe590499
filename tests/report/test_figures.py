"""The figures: whole PNG files of a readable size, for any number of curves."""

import pathlib
import struct

import pytest

from eenet_jax.report import figures


def _results(names: list[str], budgets: list[float], cost_unit: str = "mflops") -> dict:
    records = [
        {
            "scheduler": name,
            "budget": budget,
            "test_accuracy": 0.5 + 0.1 * i,
            "test_cost": budget,
            "exit_fraction": [1 - 0.2 * i, 0.2 * i],
            "accuracy_where_taken": [0.8, 0.6 if i else None],
        }
        for name in names
        for i, budget in enumerate(budgets)
    ]
    return {
        "cost_unit": cost_unit,
        "costs": [1.0, 2.0],
        "single_exit_costs": [1.0, 1.75],
        "exit_accuracy": {"val": [0.5, 0.8], "test": [0.5, 0.8]},
        "clairvoyant": {"budgets": [1.0, 2.0], "test_accuracy": [0.5, 0.9]},
        "records": records,
    }


def _size(path: pathlib.Path) -> tuple[int, int]:
    """Width and height in pixels, from the PNG's header."""
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:])


@pytest.mark.parametrize(
    "results",
    [
        _results(["one"], [1.0, 1.5, 2.0]),
        _results([f"scheduler_{i}" for i in range(9)], [1.0, 2.0], "foos"),
        _results(["one"], [0.0]),
        _results([], []),
    ],
    ids=["one", "more than colours", "one budget", "no records"],
)
def test_frontier_is_a_whole_png(results, tmp_path) -> None:
    figures.save_frontier(results, tmp_path / "frontier.png")
    width, height = _size(tmp_path / "frontier.png")
    assert 900 < width < 1300 and 600 < height < 900
    assert [p.name for p in tmp_path.iterdir()] == ["frontier.png"]  # nothing temporary


@pytest.mark.parametrize("budgets", [[1.0, 1.5, 2.0], [1.5], [0.0], [1.5, 1.5]])
def test_exits_has_a_column_a_scheduler(budgets, tmp_path) -> None:
    widths = []
    for names in (["one"], ["one", "two", "three"]):
        path = tmp_path / f"exits_{len(names)}.png"
        figures.save_exits(_results(names, budgets), path)
        width, height = _size(path)
        assert 600 < height < 1100
        widths.append(width)
    assert widths[1] > 2 * widths[0]


def test_an_interrupted_figure_leaves_the_old_one(tmp_path) -> None:
    path = tmp_path / "frontier.png"
    figures.save_frontier(_results(["one"], [1.0, 2.0]), path)
    before = path.read_bytes()
    broken = _results(["one"], [1.0, 2.0])
    broken["cost_unit"] = "$\\broken{$"  # refused by the text layout, while it draws
    with pytest.raises(ValueError, match="broken"):
        figures.save_frontier(broken, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["frontier.png"]
