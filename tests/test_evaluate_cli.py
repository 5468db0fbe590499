"""evaluate.py from outside; more is in test_evaluate_command.py, in one process."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest


def run(root: pathlib.Path, *flags: str) -> tuple[int, str, str]:
    """Runs evaluate.py; returns status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "evaluate.py", *flags],
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
    """A small predictions file of two exits and three classes."""
    rng = np.random.default_rng(0)
    arrays = {"costs": [1.0, 2.0], "cost_unit": "foos"}
    for part in ("val", "test"):
        labels = rng.integers(0, 3, 60)
        logits = rng.normal(size=(2, 60, 3))
        logits[:, np.arange(60), labels] += [[1.0], [2.0]]
        arrays |= {f"{part}_logits": logits, f"{part}_labels": labels}
    np.savez(tmp_path / "some.npz", **arrays)
    (tmp_path / "empty.npz").touch()
    return tmp_path / "some.npz"


def names(folder: pathlib.Path) -> set[str]:
    """The files below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


REPORT = {"results.json", "frontier.png", "exits.png", "policies/msdnet.npz"}
REPORT |= {"classes.png", "policies/msdnet.json"}


def test_report_goes_beside_the_predictions(root, file) -> None:
    flags = ["--scheduler=msdnet", "--budgets=1:2:3", f"--predictions={file}"]
    status, out, err = run(root, *flags)
    assert status == 0, err
    assert "msdnet: fitted in" in err  # a plain line: stderr is no terminal
    assert "foos" in out and "msdnet" in out
    assert names(file.parent / "some_eval") == REPORT
    results = json.loads((file.parent / "some_eval" / "results.json").read_text())
    assert [r["budget"] for r in results["records"]] == [1.0, 1.5, 2.0]


def test_mistake_is_one_clear_line(root, file) -> None:
    before = names(file.parent)
    status, out, err = run(root, f"--predictions={file.parent}/empty.npz")
    assert status == 1 and out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "empty.npz is empty" in lines[0]
    assert names(file.parent) == before
