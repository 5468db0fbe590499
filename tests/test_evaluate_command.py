"""evaluate.py in this process: mistakes end in one line, a good run writes files."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
from absl import flags

from eenet_jax import errors, schedulers


@pytest.fixture(scope="module")
def main():
    """The command's main; its flags are taken away again afterwards."""
    path = pathlib.Path(__file__).resolve().parent.parent / "evaluate.py"
    spec = importlib.util.spec_from_file_location("evaluate_command", path)
    before = set(flags.FLAGS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    added = set(flags.FLAGS) - before
    yield module.main
    for name in added:
        delattr(flags.FLAGS, name)


@pytest.fixture
def run(main, monkeypatch, capsys):
    """Runs the command with flags; returns status, stdout and stderr."""
    from absl.testing import flagsaver

    def run(*given: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *given])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
            errors.run(main)
        return stopped.value.code or 0, *capsys.readouterr()

    return run


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
    ([], "give either --workdir=DIR or --predictions=FILE.npz"),
    (["--predictions={}.none"], "some.npz.none is not there"),
    (["--predictions={}", "--budgets=abc"], "--budgets=abc is not understood"),
    (["--predictions={}", "--budgets=0.5"], "0.5 foos is below 1,"),
    (["--predictions={}", "--scheduler=eenett"], "Did you mean 'eenet'"),
    (["--predictions={}", "--cost=mflops"], "--cost=mflops cannot be given"),
    (["--predictions={}", "--mode=adaptive"], "--mode=adaptive runs the network"),
    (["--predictions={}", "--costs={}.json"], "some.npz.json cannot be read"),
    (["--workdir=x", "--cost=energy_mj"], "--cost=energy_mj is not available yet"),
    (["--workdir=x", "--mode=fast"], "--mode=fast is unknown; choose from anytime"),
    (["--predictions={}", "--budget=2"], "Unknown command line flag 'budget'"),
    (["--predictions={}", "stray"], "unexpected argument 'stray'"),
    (["--predictions={}", "--budgets=nan"], "--budgets=nan is not understood"),
    (["--predictions={}", "--scheduler="], "--scheduler='' is unknown; choose"),
    (["--predictions={}", "--confidence=2"], "--confidence=2.0 must be in (0, 1)"),
    (["--predictions={}", "--seed=-1"], "--seed=-1"),
    (["--workdir={}/below"], "holds no run"),
    (["--workdir=x", "--predictions={}"], "give either --workdir=DIR or"),
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
]


@pytest.mark.parametrize("given, message", MISTAKES)
def test_mistake_is_one_line(run, file, given, message) -> None:
    status, out, err = run(*(flag.format(file) for flag in given))
    assert status == 1 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "Traceback" not in err
    assert message in err
