"""Many runs evaluated by one command: tables, what is compiled, what fails."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest

from eenet_jax import reports
from eenet_jax.predictions import Predictions, Split, save_predictions

QUICK_COMPILES = True
COMPILED = "/jax/core/compile/backend_compile_duration"


def _write_predictions(workdir, seed: int, num: int = 60) -> None:
    """Made-up predictions of two exits for the run there."""
    rng = np.random.default_rng(seed)

    def draw():
        labels = rng.integers(0, 10, num).astype(np.int32)
        logits = rng.normal(size=(2, num, 10)).astype(np.float32)
        logits[:, np.arange(num), labels] += [[1.0], [3.0]]
        return Split(logits, labels)

    costs = np.array([1.0, 2.0])
    predictions = Predictions(draw(), draw(), costs, "mflops", checkpoint_step=1)
    save_predictions(workdir / "predictions.npz", predictions)


@pytest.fixture
def compiled_by_run(monkeypatch) -> list[int]:
    """Gets how many programs each run's evaluation compiled, run by run."""
    compiled, count = [], [0]

    def note(event, seconds, **_):
        count[0] += event == COMPILED

    jax.monitoring.register_event_duration_secs_listener(note)
    report_run = reports.report_run

    def counted(workdir, asked):
        count[0] = 0
        found = report_run(workdir, asked)
        compiled.append(count[0])
        return found

    monkeypatch.setattr(reports, "report_run", counted)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(note)


def test_many_runs(tmp_path, run_command, write_run, compiled_by_run):
    for seed in range(4):
        write_run(tmp_path / f"run{seed}", seed)
        _write_predictions(tmp_path / f"run{seed}", seed)
    (tmp_path / "run2" / "predictions.npz").write_bytes(b"")
    (tmp_path / "no_run").mkdir()
    flags = ["--scheduler=msdnet,lagrangian:stopping+prices=4", "--budgets=1.2,1.5"]
    pattern, output = f"--workdirs={tmp_path}/*", f"--output={tmp_path / 'all'}"
    status, out, err = run_command("evaluate", *flags, pattern, output)
    assert status == 1 and "Traceback" not in err
    assert "error: 1 of 4 runs could not be evaluated" in err and "run2" in err
    assert "run2/predictions.npz is empty" in out
    assert compiled_by_run[0] > 0 and compiled_by_run[1:] == [0, 0]

    with (tmp_path / "all" / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 2 * 2
    for seed in (0, 1, 3):
        results = tmp_path / f"run{seed}" / "eval" / "results.json"
        records = json.loads(results.read_text())["records"]
        ours = [row for row in rows if row["workdir"].endswith(f"run{seed}")]
        assert [float(row["test_accuracy"]) for row in ours] == [
            record["test_accuracy"] for record in records
        ]
    with (tmp_path / "all" / "summary.csv").open() as stream:
        first, *others = csv.DictReader(stream)
    assert len(others) == 3 and first["runs"] == "3" and first["budget"] == "1.2"
    values = [
        float(row["test_accuracy"])
        for row in rows
        if (row["scheduler"], row["budget"]) == (first["scheduler"], "1.2")
    ]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert float(first["test_accuracy, mean"]) == pytest.approx(mean, rel=1e-5)
    spread = float(first["test_accuracy, deviation"])
    assert spread == pytest.approx(deviation, rel=1e-2)


def test_a_network_of_one_exit_has_nothing_to_choose(tmp_path, run_command, write_run):
    write_run(tmp_path / "run", exits=())
    flag = f"--workdir={tmp_path / 'run'}"
    status, out, err = run_command("evaluate", flag)
    assert status == 0, err
    assert "left out: msdnet, " in out and "which need at least 2 exits" in out
    results = json.loads((tmp_path / "run" / "eval" / "results.json").read_text())
    assert results["records"] == [] and len(results["costs"]) == 1
    assert len(results["exit_accuracy"]["test"]) == 1
    status, _, err = run_command("evaluate", flag, "--scheduler=msdnet")
    assert status == 1 and "msdnet needs at least 2 exits" in err


@pytest.mark.slow
def test_checkpoints_of_two_shapes_compile_twice(
    tmp_path, run_command, write_run, compiled_by_run
):
    # Networks of two shapes, in turn; none has predictions yet.
    write_run(tmp_path / "run00", width=4)
    write_run(tmp_path / "run01", width=6)
    for i in range(2, 4):
        shutil.copytree(tmp_path / f"run{i % 2:02}", tmp_path / f"run{i:02}")
    lagrangian = "lagrangian:stopping+prices=4+units="
    flags = [f"--scheduler=msdnet,{lagrangian}4/8", "--speedup=1.5,1.2"]
    pattern, output = f"--workdirs={tmp_path}/*", f"--output={tmp_path / 'all'}"
    status, _, err = run_command("evaluate", *flags, pattern, output)
    assert status == 0, err
    # The network for a batch, then the fits; of the second shape the network alone.
    first, second, *others = compiled_by_run
    assert first > second > 0 and others == [0] * 2
    with (tmp_path / "all" / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    # Budgets are speed-ups, which are other costs in the two networks.
    names = ["msdnet", f"{lagrangian}4", f"{lagrangian}8"]
    assert [row["scheduler"] for row in rows[:6]] == [n for n in names for _ in "ab"]
    assert [row["runs"] for row in rows] == ["2"] * 12


def test_patterns_that_match_nothing_are_refused(tmp_path, run_command):
    pattern = f"--workdirs={tmp_path}/*"
    status, _, err = run_command("evaluate", pattern)
    assert status == 1 and "matches no run; quote it" in err
    status, _, err = run_command("evaluate", pattern, "--workdir=x")
    assert status == 1 and "give one of --workdir=DIR" in err
