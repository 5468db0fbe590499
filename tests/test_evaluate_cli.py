"""evaluate.py from outside: what it writes where, and mistakes."""

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
    np.savez(tmp_path / "other.npz", something=[1])
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


@pytest.mark.slow
def test_with_an_output_nothing_is_written_beside_the_predictions(root, file) -> None:
    output = file.parent / "mine"
    before = names(file.parent)
    flags = ["--scheduler=msdnet", "--budgets=2", f"--output={output}"]
    status, out, err = run(root, f"--predictions={file}", *flags)
    assert status == 0, err
    assert str(output) in out
    assert names(output) == REPORT
    assert names(file.parent) - {f"mine/{name}" for name in REPORT} == before
    assert not (file.parent / "some_eval").exists()


def test_anytime_fits_nothing(root, file) -> None:
    status, out, err = run(root, f"--predictions={file}", "--mode=anytime")
    assert status == 0, err
    report = {"results.json", "frontier.png", "exits.png"}
    assert names(file.parent / "some_eval") == report
    assert "exits.png" in out
    results = json.loads((file.parent / "some_eval" / "results.json").read_text())
    assert results["records"] == []


MISTAKES = [  # more are in test_evaluate_command.py, in one process
    (["--predictions={}/empty.npz"], "empty.npz is empty"),
    (["--predictions={}/some.npz", "--output={}/other.npz"], "cannot be made"),
]


@pytest.mark.parametrize("flags, message", MISTAKES)
def test_mistake_is_one_clear_line(root, file, flags, message) -> None:
    before = names(file.parent)
    status, out, err = run(root, *(flag.format(file.parent) for flag in flags))
    assert status == 1 and out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert message in lines[0]
    assert names(file.parent) == before


@pytest.mark.slow
def test_schedulers_on_hard_predictions(root, tmp_path) -> None:
    """float16, exact 0 and 1, copies, few samples, absent classes, a worse exit."""
    rng, num_exits, num_classes = np.random.default_rng(0), 2, 100
    arrays = {"costs": np.arange(1.0, num_exits + 1)}
    for part in ("val", "test"):
        labels = np.repeat(rng.integers(0, max(2, num_classes // 2), 25), 2)
        logits = rng.normal(size=(num_exits, 50, num_classes))
        logits[:-1, np.arange(50), labels] += 3
        logits[:, 1::2] = logits[:, ::2]
        logits[:, :20] *= 1e4
        probs = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probs /= probs.sum(axis=-1, keepdims=True)
        arrays[f"{part}_probs"] = probs.astype(np.float16)
        arrays[f"{part}_labels"] = labels
    assert {0, 1} <= set(arrays["val_probs"].astype(float).ravel())
    np.savez(tmp_path / "hard.npz", **arrays)
    status, _, err = run(
        root,
        f"--predictions={tmp_path / 'hard.npz'}",
        "--scheduler=lagrangian,maxprob_opt,pabee",
        "--temperature",
    )
    assert status == 0, err
    found = json.loads((tmp_path / "hard_eval" / "results.json").read_text())
    everyone = {record["scheduler"] for record in found["records"]}
    assert everyone >= {"lagrangian", "maxprob_opt", "pabee"}
    for record in found["records"]:
        assert record["val_cost"] <= record["budget"] * (1 + 1e-9)
        assert 0 <= record["test_accuracy"] <= 1
