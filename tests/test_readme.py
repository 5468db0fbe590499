"""The README's commands, word for word, and what they must reach."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from eenet_jax import sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block(text: str) -> str:
    """Returns the README's Python block that has some text."""
    (found,) = [found for found in blocks("python") if text in found]
    return found


def test_first_block_installs_trains_and_evaluates() -> None:
    commands = [part.strip() for part in blocks("sh")[0].split("&&")]
    assert commands[0] == "python3 -m venv .venv"
    assert commands[2] == "pip install -q -r requirements.txt"
    assert commands[3:] == [
        "python train.py --config=configs/digits.py --workdir=runs/digits",
        "python evaluate.py --workdir=runs/digits",
    ]
    assert blocks("sh")[1].strip().endswith("python -m pytest -q")


def test_every_config_and_path_it_names_is_there() -> None:
    pattern = r"(?:configs|benchmarks|eenet_jax)/[a-z0-9_./]+\.(?:py|md)"
    named = re.findall(pattern, README)
    assert len(named) > 5
    for path in named:
        assert (ROOT / path).is_file(), path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """Runs the main job of the README in a directory of its own."""
    folder = tmp_path_factory.mktemp("readme")
    for command in blocks("sh")[0].split("&&")[3:]:
        words = command.split()[1:]
        words[0] = str(ROOT / words[0])
        words = [w.replace("=configs/", f"={ROOT}/configs/") for w in words]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_python_block_on_sweeps_is_read(tmp_path) -> None:
    (tmp_path / "c.py").write_text(block("def sweep"))
    axes = sweep.read_axes(tmp_path / "c.py")
    assert list(axes) == ["seed", "lr", "size"]
    assert len(sweep.points(axes, "lr,size,seed")) == 3 * 2 * 3


@pytest.mark.slow
def test_main_job_reaches_its_figures(workdir) -> None:
    output = workdir / "runs" / "digits" / "eval"
    results = json.loads((output / "results.json").read_text())
    costs, accuracy = results["costs"], results["exit_accuracy"]["test"]
    assert accuracy[-1] >= 0.97
    assert accuracy[0] >= 0.80 and costs[0] <= 0.25 * costs[-1]
    half = costs[0] + (costs[-1] - costs[0]) / 2
    eenet = [r for r in results["records"] if r["scheduler"] == "eenet"]
    within = [r for r in eenet if r["test_cost"] <= half and r["budget"] <= half]
    best = max(within, key=lambda r: r["budget"])
    assert best["test_accuracy"] >= accuracy[-1] - 0.005
    assert all(r["met"] for r in results["records"])
    assert (output / "frontier.png").stat().st_size > 10_000
    assert (output / "exits.png").stat().st_size > 10_000


@pytest.mark.slow
def test_python_block_on_weights_runs(shared, tmp_path, monkeypatch) -> None:
    weights = shared / "data" / "weights" / "cifar10_resnet56-4bfd9763.npz"
    (tmp_path / "resnet56.npz").write_bytes(weights.read_bytes())
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block("from_torch.convert"), "README.md", "exec"), names)
    assert names["logits"].shape == (3, 8, 10)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["adaptive_predict", "schedulers.fit"])
def test_python_block_on_policies_runs(call, workdir, monkeypatch, capsys) -> None:
    monkeypatch.chdir(workdir)
    names = {}
    exec(compile(block(call), "README.md", "exec"), names)
    printed = capsys.readouterr().out
    if call == "adaptive_predict":
        right = names["found"].label == names["run"].dataset.test.labels[:2]
        assert right.shape == (2,) and right.sum() >= 1
        assert printed.split()[-1] in "01"
    else:
        accuracy, cost, *_ = printed.split()
        assert float(accuracy) > 0.9 and float(cost) <= 2.0
