"""Sweeps: which runs there are, and what becomes of them."""

import csv
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from configs import default
from eenet_jax import sweep, sweep_runs
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split

QUICK_COMPILES = True  # see conftest.py
AXES = {
    **sweep.SEEDS,
    "lr": {"optimizer.learning_rate": (0.1, 0.05)},
    "size": {"model.options.depth": (8, 14), "model.options.width": (16, 8)},
    "again": {"optimizer.learning_rate": (1.0,)},
    "exits": {"model.exits": ((1, 2), (2,))},
}
CONFIG = """
from configs import digits

def get_config():
    c = digits.get_config()
    c.model.exits = (1,)
    c.model.options.depth = 8
    c.model.options.width = 4
    c.train.epochs = 2
    c.train.eval_epochs = 1
    return c

def sweep():
    yield "lr", {"optimizer.learning_rate": (0.01, 0.02)}
    yield "many", {"seed": tuple(range(100))}
"""


# train.py with the flags that follow its folder; fails where JAX was imported.
LISTED = """
import runpy, sys
folder = sys.argv.pop(1)
try:
    runpy.run_path(folder + "/train.py", run_name="__main__")
except SystemExit as stopped:
    assert not stopped.code, stopped.code
assert "jax" not in sys.modules
"""


def test_fields_of_an_axis_change_together_and_axes_multiply():
    found = sweep.points(AXES, "size,lr")
    assert [tuple(p.changes.values()) for p in found] == [
        *((8, 16, lr) for lr in (0.1, 0.05)),
        *((14, 8, lr) for lr in (0.1, 0.05)),
    ]
    assert found[0].name == "depth=8,width=16,learning_rate=0.1"
    assert [p.name for p in sweep.points(AXES, "exits")] == [
        "exits=(1,2)",
        "exits=(2,)",
    ]
    config = default.get_config()
    config.model.options = {"depth": 20, "width": 1}
    changed = sweep.change(config, found[2])
    assert changed.model.options.to_dict() == {"depth": 14, "width": 8}
    assert changed.optimizer.learning_rate == 0.1 and config.model.options.depth == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr,nothing", "'nothing' must be one of the axes .*'again', 'exits', 'lr'"),
        ("lr,lr", "'lr' must be one of the axes .*, and be given once"),
        ("", "'' must be one of"),
        ("lr,again", "two axes set optimizer.learning_rate"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        sweep.points(AXES, text)


def test_axes_are_read_from_the_config_file(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(CONFIG)
    axes = sweep.read_axes(path)
    assert list(axes) == ["seed", "lr", "many"]
    runs = sweep.points(axes, "many")
    assert len(sweep.listing(runs).splitlines()) == len(runs) == 100
    path.write_text("def sweep():\n    yield 'a', {'x': (1,), 'y': (1, 2)}\n")
    with pytest.raises(UserError, match="equally many values.*{'x': 1, 'y': 2}"):
        sweep.read_axes(path)
    path.write_text("")
    assert sweep.read_axes(path) == sweep.SEEDS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer.rate": 1}, r"sweep\(\): optimizer.rate=1: "),
        ({"train.epochs": "many"}, r"sweep\(\): train.epochs='many': "),
    ],
)
def test_values_that_fields_cannot_hold_are_refused(changes, message):
    config = default.get_config().lock()
    with pytest.raises(UserError, match=message):
        sweep.change(config, sweep.Point("some", changes))


def _predictions(right: float) -> Predictions:
    labels = np.zeros(10, np.int32)
    logits = np.zeros((2, 10, 2), np.float32)
    logits[..., 1] = -1
    logits[1, round(10 * right) :, 1] = 1
    split = Split(logits, labels)
    return Predictions(split, split, np.array([1.0, 2.0]), cost_unit="mflops")


def test_a_failing_run_is_kept_and_the_rest_go_on(tmp_path, capsys):
    points = sweep.points(AXES, "lr,seed")
    config, tried, broken = default.get_config(), [], {2}

    def run(config, folder):
        tried.append((config.optimizer.learning_rate, config.seed))
        if len(tried) - 1 in broken:
            raise UserError("no luck")
        if len(tried) == 4:
            raise MemoryError("too large")
        return _predictions(0.5 + config.seed / 10)

    rows = sweep_runs.run_points(points, config, tmp_path, run)
    assert tried == [(lr, seed) for lr in (0.1, 0.05) for seed in range(3)]
    states = [row["state"] for row in rows]
    assert states == ["finished"] * 2 + ["failed"] * 2 + ["finished"] * 2
    assert rows[2]["error"] == "no luck"
    assert rows[3]["error"] == "MemoryError: too large"
    text = sweep_runs.table(rows)
    assert "no luck" in text
    with (tmp_path / "sweep.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["state"] for line in lines] == states
    assert lines[1]["exit_2 %"] == "60.00" and lines[2]["exit_2 %"] == ""
    with (tmp_path / "summary.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["finished"] for line in lines] == ["2 of 3", "2 of 3"]
    assert lines[0]["last exit, mean %"] == "55.00"
    assert lines[0]["last exit, deviation %"] == f"{np.std([50, 60], ddof=1):.2f}"
    assert lines[0]["mean of exits, mean %"] == "77.50"

    tried.clear()
    broken.clear()
    rows = sweep_runs.run_points(points, config, tmp_path, run, index=3)
    assert tried == [(0.05, 0)]
    states = [row["state"] for row in rows]
    assert states == ["finished"] * 2 + ["failed"] + ["finished"] * 3
    sweep_runs.run_points(points, config, tmp_path, run)
    assert tried[1:] == [(0.1, 2)]
    assert "run 0, learning_rate=0.1,seed=0: finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match="--sweep_index=6 must be from 0 to 5"):
        sweep_runs.run_points(points, config, tmp_path, run, index=6)


def test_a_hundred_runs_are_listed_without_starting_jax(tmp_path, run_command, root):
    (tmp_path / "c.py").write_text(CONFIG)
    flags = [f"--config={tmp_path / 'c.py'}", "--sweep_list"]
    done = subprocess.run(  # one that has not even imported JAX compiles nothing
        [sys.executable, "-c", LISTED, str(root), *flags, "--sweep=many"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 100
    status, out, _ = run_command("train", *flags, "--sweep=lr,many")
    assert status == 0 and len(out.splitlines()) == 200
    assert out.splitlines()[101].split() == [
        *("101", "learning_rate=0.02,seed=1"),
        *("optimizer.learning_rate=0.02", "seed=1"),
    ]
    status, _, err = run_command("train", *flags)
    assert status == 1 and err.startswith("error: --sweep is missing; name axes")
    status, _, err = run_command("train", flags[0], "--sweep=lr")
    assert status == 1 and err.startswith("error: --workdir is missing")


@pytest.mark.slow
def test_a_sweep_goes_on_after_kill_9(tmp_path, root):
    (tmp_path / "c.py").write_text(CONFIG)
    workdir = tmp_path / "runs"
    obstacle = workdir / "learning_rate=0.02,seed=1" / "predictions.npz"
    obstacle.mkdir(parents=True)  # so this run can be trained, but not kept
    command = [
        *(sys.executable, "train.py", f"--config={tmp_path / 'c.py'}"),
        *("--sweep=lr,seed", f"--workdir={workdir}"),
    ]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.DEVNULL)
    fourth = workdir / "learning_rate=0.02,seed=0"
    for _ in range(1200):
        if (fourth / "config.json").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = sorted(workdir.glob("learning_rate=0.01,*/run.json"))
    assert len(finished) == 3 and not (fourth / "run.json").exists()
    before = [path.stat().st_mtime_ns for path in finished]

    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "1 of 6 runs failed: learning_rate=0.02,seed=1" in done.stderr
    assert "Traceback" not in done.stdout and done.stdout.count("finished before") == 3
    assert [path.stat().st_mtime_ns for path in finished] == before
    with (workdir / "sweep.csv").open() as stream:
        states = [line["state"] for line in csv.DictReader(stream)]
    assert states == ["finished"] * 4 + ["failed", "finished"]
    with (workdir / "summary.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["finished"] for line in lines] == ["3 of 3", "2 of 3"]
    assert all(float(line["last exit, deviation %"]) >= 0 for line in lines)
