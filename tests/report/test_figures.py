"""The figures: whole PNG files of a readable size, for any number of curves."""

import pathlib
import struct

import pytest

from eenet_jax.report import classes, comparison, figures


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
        "random": {"budgets": [1.0, 2.0], "test_accuracy": [0.5, 0.8]},
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
    assert 900 < width < 1500 and 600 < height < 900
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


def _compared(lowest: dict[str, float]) -> dict:
    """A comparison where each scheduler falls to so many points below the first."""

    def found(low):
        difference = [low / 100, 0.0, 0.001]
        interval = [[d - 0.001, d + 0.001] for d in difference]
        return {"grid": {"difference": difference, "interval": interval}}

    names = list(lowest)
    return {
        "cost_unit": "mflops",
        "comparison": {
            "reference": names[0],
            "confidence": 0.95,
            "seeds": 2,
            "costs": {"grid": [1.0, 1.5, 2.0]},
            "schedulers": {name: found(low) for name, low in lowest.items()},
        },
    }


@pytest.mark.parametrize(
    "lowest",
    [
        {"a": 0, "b": -1},
        {"a": 0, "b": 0, "c": -40, "d": -1},
        dict.fromkeys("abcdefghi", 0),
    ],
    ids=["two", "one far below", "more than colours"],
)
def test_comparison_is_a_whole_png(lowest, tmp_path) -> None:
    assert comparison.save_comparison(_compared(lowest), tmp_path / "comparison.png")
    width, height = _size(tmp_path / "comparison.png")
    assert 900 < width < 1400 and 600 < height < 1100


def test_one_scheduler_is_not_compared(tmp_path) -> None:
    for results in ({"comparison": {}}, {}, _compared({"a": 0})):
        assert not comparison.save_comparison(results, tmp_path / "comparison.png")
    assert not any(tmp_path.iterdir())


def _classes(count: int, names: list[str]) -> dict:
    costs = [None, *(1 + (7 * c % count) / count for c in range(1, count))]
    accuracy = [None, *(0.5 for _ in range(1, count))]
    measured = {"budget": 1.5, "accuracy": accuracy, "cost": costs}
    per_class = dict.fromkeys(names, measured)
    return {"cost_unit": "mflops", "costs": [1.0, 1.01, 2.0], "per_class": per_class}


@pytest.mark.parametrize("count", [2, 10, 100])
def test_classes_is_a_whole_png(count, tmp_path) -> None:
    results = _classes(count, ["eenet", "lagrangian", "pabee"])
    assert classes.save_classes(results, tmp_path / "classes.png")
    width, height = _size(tmp_path / "classes.png")
    assert 900 < width < 1400 and 300 < height < 1600
    assert not classes.save_classes({**results, "per_class": {}}, tmp_path / "none.png")
    assert [p.name for p in tmp_path.iterdir()] == ["classes.png"]


def test_classes_shown_go_by_cost() -> None:
    assert classes.shown_classes([3.0, None, 1.0, 2.0])[:2] == ([2, 3, 0], None)
    cost = [float(c) for c in range(40)][::-1]
    shown, gap, title = classes.shown_classes(cost)
    assert shown == [*range(39, 24, -1), *range(14, -1, -1)] and gap == 15
    assert "15 cheapest and 15 dearest of 40" in title
