"""The report of a real evaluation: the table says all, the figures can be opened."""

import jax
import numpy as np
import pytest
from PIL import Image

from eenet_jax import evaluation
from eenet_jax.predictions import Predictions, Split
from eenet_jax.report.files import write_report

NAMES = ["msdnet", "branchynet", "pabee"]


def make_split(seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 80).astype(np.int32)
    logits = rng.normal(size=(3, 80, 4)).astype(np.float32)
    logits[:, np.arange(80), labels] += np.array([1.0, 2.0, 3.0])[:, None]
    return Split(logits, labels)


@pytest.fixture(scope="module", params=[[3.0], [1.0, 1.75, 2.5, 3.25, 4.0]], ids=len)
def report(request, tmp_path_factory):
    """Budgets, the printed table, and the folder written."""
    costs = np.array([1.0, 2.0, 4.0])
    results = evaluation.evaluate(
        Predictions(make_split(0), make_split(1), costs, "foos"),
        schedulers=NAMES,
        budgets=np.array(request.param),
        key=jax.random.key(0),
    )
    folder = tmp_path_factory.mktemp("report")
    return request.param, write_report(results, folder), folder


def test_table_has_every_scheduler_and_budget(report) -> None:
    budgets, table, _ = report
    lines = [line.split() for line in table.splitlines()]
    head = lines.index(["budget", *NAMES])
    end = head + 1 + len(budgets)
    assert [line[0] for line in lines[head + 1 : end]] == [f"{b:.4g}" for b in budgets]
    assert lines[end] == []
    assert "foos" in table
    for row in table.splitlines()[head + 1 : end]:
        assert row.count("@") == len(NAMES) and "*" in row


def test_table_goes_on_with_equal_cost_and_scores(report) -> None:
    lines = report[1].splitlines()
    for title in ("At equal mean test cost", "Score quality"):
        start = next(i for i, line in enumerate(lines) if line.startswith(title))
        rows = lines[start + 2 : start + 2 + len(NAMES)]
        assert [row.split()[0] for row in rows] == NAMES
        assert max(map(len, [lines[start], *rows])) <= 120


@pytest.mark.parametrize(
    "name", ["frontier.png", "exits.png", "comparison.png", "classes.png"]
)
def test_figure_can_be_opened(report, name) -> None:
    with Image.open(report[2] / name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        pixels = np.asarray(image.convert("RGB"))  # decodes all of it
    assert pixels.shape[2] == 3
    some = pixels[::5, ::5].reshape(-1, 3)
    assert len(np.unique(some, axis=0)) > 20  # something is drawn
