"""evaluate.py in this process: mistakes end in one line, a good run writes files."""

import functools
import json
import pathlib

import numpy as np
import pytest

from eenet_jax import schedulers


@pytest.fixture
def run(run_command):
    """Runs the command with flags; returns status, stdout and stderr."""
    return functools.partial(run_command, "evaluate")


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
    """A small predictions file of three exits."""
    rng = np.random.default_rng(0)
    arrays = {"costs": [1.0, 2.0, 4.0], "cost_unit": "foos"}
    for part in ("val", "test"):
        labels = rng.integers(0, 3, 60)
        logits = rng.normal(size=(3, 60, 3))
        logits[:, np.arange(60), labels] += [[1.0], [2.0], [3.0]]
        arrays |= {f"{part}_logits": logits, f"{part}_labels": labels}
    np.savez(tmp_path / "some.npz", **arrays)
    return tmp_path / "some.npz"


def written(folder: pathlib.Path) -> set[str]:
    """The files below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_two_schedulers(run, file) -> None:
    names = ["msdnet", "maxprob_opt"]
    budgets = [1.0, 1.5, 2.0, 3.0, 8.0]
    status, out, _ = run(
        f"--predictions={file}",
        f"--scheduler={','.join(names)}",
        f"--budgets={','.join(map(str, budgets))}",
    )
    assert status == 0
    output = file.parent / "some_eval"
    results = json.loads((output / "results.json").read_text())
    pairs = [(r["scheduler"], r["budget"]) for r in results["records"]]
    assert pairs == [(name, budget) for name in names for budget in budgets]
    assert all(r["met"] for r in results["records"])
    for name in ("frontier.png", "exits.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    for name in names:
        assert name in out
        frontier = schedulers.Frontier.load(output / "policies" / f"{name}.npz")
        assert frontier.cost_unit == "foos"


@pytest.mark.slow
def test_temperature_and_ensemble(run, file) -> None:
    def results(*flags: str) -> dict:
        given = ["--budgets=1,2,4", f"--predictions={file}"]
        assert run(*given, *flags)[0] == 0
        return json.loads((file.parent / "some_eval" / "results.json").read_text())

    plain = results("--scheduler=msdnet")
    assert plain["adjustment"] == {"temperature": None, "ensemble": False}
    both = results("--scheduler=msdnet", "--temperature", "--ensemble")
    assert len(both["adjustment"]["temperature"]) == 3
    assert all(0.05 <= t <= 20 for t in both["adjustment"]["temperature"])
    assert both["adjustment"]["ensemble"] is True
    for part in ("exit_accuracy", "costs"):
        assert both[part] == plain[part]
    policy = file.parent / "some_eval" / "policies" / "msdnet.npz"
    applied = results(f"--policy={policy}")
    assert applied["adjustment"] == both["adjustment"]
    for one, other in zip(applied["records"], both["records"], strict=True):
        assert one["test_accuracy"] == other["test_accuracy"]
        assert one["exit_fraction"] == other["exit_fraction"]


MISTAKES = [
    ([], "give one of --workdir=DIR, --predictions=FILE.npz"),
    (["--predictions={}.none"], "some.npz.none is not there"),
    (["--predictions={}", "--budgets=abc"], "--budgets=abc is not understood"),
    (["--predictions={}", "--budgets=0.5"], "0.5 foos is below 1,"),
    (["--predictions={}", "--scheduler=eenett"], "Did you mean 'eenet'"),
    (["--predictions={}", "--cost=mflops"], "--cost=mflops cannot be given"),
    (["--predictions={}", "--mode=adaptive"], "--mode=adaptive runs the network"),
    (["--predictions={}", "--costs={}.json"], "some.npz.json cannot be read"),
    (["--workdir=x", "--cost=joules"], "--cost=joules is unknown; choose from mflops"),
    (["--workdir=x", "--mode=fast"], "--mode=fast is unknown; choose from anytime"),
    (["--predictions={}", "--budget=2"], "Unknown command line flag 'budget'"),
    (["--predictions={}", "stray"], "unexpected argument 'stray'"),
    (["--predictions={}", "--budgets=nan"], "--budgets=nan is not understood"),
    (["--predictions={}", "--scheduler="], "--scheduler='' is unknown; choose"),
    (["--predictions={}", "--confidence=2"], "--confidence=2.0 must be in (0, 1)"),
    (["--predictions={}", "--seed=-1"], "--seed=-1"),
    (["--workdir={}/below"], "holds no run"),
    (["--workdir=x", "--predictions={}"], "give one of --workdir=DIR"),
    (["--predictions={}", "--policy=x", "--ensemble"], "--ensemble cannot be given"),
    (["--predictions={}", "--policy=x", "--scheduler=msdnet"], "--scheduler=msdnet"),
    (["--predictions={}", "--policy=x", "--mode=anytime"], "--policy=x cannot"),
    (["--predictions={}", "--mode=anytime", "--max_drop=0.1"], "--max_drop=0.1 cannot"),
    (["--predictions={}", "--max_drop=1.5"], "--max_drop=1.5 must be in [0, 1)"),
    (["--predictions={}", "--speedup=50"], "--speedup=50 must be numbers from 1 to"),
    (["--predictions={}", "--speedup=2,x"], "--speedup=2,x must be numbers from 1"),
    (["--predictions={}", "--speedup=2", "--budgets=2"], "--speedup=2 cannot be given"),
    (
        ["--predictions={}", "--scheduler=msdnet", "--min_accuracy=0.999"],
        "--min_accuracy=0.999 is out of reach: policies have 0.",
    ),
    (
        ["--predictions={}", "--min_accuracy=0.9", "--confidence=0.9"],
        "--confidence=0.9 cannot be given with --min_accuracy",
    ),
    (["--predictions={}", "--checkpoint=latest"], "--checkpoint=latest cannot"),
    (["--predictions={}", "--output={}"], "some.npz cannot be made"),
    (
        ["--predictions={}", "--scheduler=predictive_exit:every"],
        "predictive_exit:every needs activation_mean (eval.train_samples)",
    ),
]


@pytest.mark.parametrize("given, message", MISTAKES)
def test_mistake_is_one_line(run, file, given, message) -> None:
    status, out, err = run(*(flag.format(file) for flag in given))
    assert status == 1 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "Traceback" not in err
    assert message in err


def test_with_an_output_nothing_is_written_beside_the_predictions(run, file) -> None:
    report = {"results.json", "frontier.png", "exits.png", "classes.png"}
    report |= {"policies/msdnet.npz", "policies/msdnet.json"}
    output = file.parent / "mine"
    before = written(file.parent)
    flags = ["--scheduler=msdnet", "--budgets=2", f"--output={output}"]
    status, out, err = run(f"--predictions={file}", *flags)
    assert status == 0, err
    assert str(output) in out
    assert written(output) == report
    assert written(file.parent) - {f"mine/{name}" for name in report} == before
    assert not (file.parent / "some_eval").exists()


def test_anytime_fits_nothing(run, file) -> None:
    status, out, err = run(f"--predictions={file}", "--mode=anytime")
    assert status == 0, err
    report = {"results.json", "frontier.png", "exits.png"}
    assert written(file.parent / "some_eval") == report
    assert "exits.png" in out
    results = json.loads((file.parent / "some_eval" / "results.json").read_text())
    assert results["records"] == []


@pytest.mark.slow
def test_schedulers_on_hard_predictions(run, tmp_path) -> None:
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
