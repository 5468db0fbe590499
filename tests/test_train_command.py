"""train.py from outside: resume after kill -9, finished runs, and mistakes."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from eenet_jax import trained
from eenet_jax.errors import UserError
from eenet_jax.trained import load_trained

QUICK_COMPILES = True  # see conftest.py
SMALL = [
    "--config=configs/digits.py",
    "--config.model.name=cifar_resnet",
    "--config.model.exits=(1,)",
    "--config.model.options.depth=8",
    "--config.data.flip=True",
    "--config.train.epochs=4",
    "--config.train.eval_epochs=1",
    "--config.train.ema_decay=0.9",
    "--config.eval.batch_size=64",
]


def start(root: pathlib.Path, *flags: str) -> subprocess.Popen:
    """Starts train.py on one CPU device."""
    return subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """Waits for a command; returns status, stdout and stderr."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def whole_checkpoints(workdir: pathlib.Path) -> list[int]:
    """The steps of a run's checkpoints, without those being written."""
    names = [path.name for path in workdir.glob("checkpoints/*")]
    return [int(name) for name in names if name.isdigit()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> pathlib.Path:
    """The workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    root = pathlib.Path(__file__).resolve().parent.parent
    status, _, err = finish(start(root, *SMALL, f"--workdir={workdir}"))
    assert status == 0, err
    return workdir


@pytest.mark.slow
def test_killed_run_resumes_bit_equal(root, tmp_path, finished) -> None:
    workdir = tmp_path / "run"
    process = start(root, *SMALL, f"--workdir={workdir}")
    deadline = time.monotonic() + 200
    while not whole_checkpoints(workdir):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < max(whole_checkpoints(workdir)) < 40

    status, _, err = finish(start(root, *SMALL, f"--workdir={workdir}"))
    assert status == 0, err
    whole, resumed = (load_trained(w, "latest") for w in (finished, workdir))
    assert whole.step == resumed.step == 40
    equal = jax.tree.map(np.array_equal, whole.variables, resumed.variables)
    assert all(jax.tree.leaves(equal))

    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len((finished / "metrics.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_finished_run_says_so(root, finished) -> None:
    before = (finished / "predictions.npz").read_bytes()
    status, out, _ = finish(start(root, *SMALL, f"--workdir={finished}"))
    assert status == 0
    assert "is finished: step 40 of 40" in out
    assert (finished / "predictions.npz").read_bytes() == before


@pytest.mark.slow
def test_workdir_of_another_config_is_refused(root, finished) -> None:
    flags = [*SMALL, "--config.seed=5", f"--workdir={finished}"]
    status, _, err = finish(start(root, *flags))
    assert status == 1
    assert "belongs to a run of another config" in err and "seed: 5 here, 0" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_checkpoints_by_name(finished) -> None:
    assert load_trained(finished, "latest").step == 40
    best = trained.workdir_predictions(finished, "best").checkpoint_step
    assert load_trained(finished, "best").step == best
    with pytest.raises(UserError, match="--checkpoint=7 is not there; choose best"):
        load_trained(finished, "7")
    with pytest.raises(UserError, match="holds no run"):
        load_trained(finished.parent / "nothing")


@pytest.mark.slow
def test_predictions_match_the_network(finished) -> None:
    run = load_trained(finished, "latest")
    predictions = trained.predict(run)
    assert predictions.val.logits.shape == (2, 297, 10)
    assert predictions.test.logits.shape == (2, 500, 10)
    assert predictions.checkpoint_step == 40
    x = (run.dataset.test.images[:7] / 255 - run.dataset.mean) / run.dataset.std
    x = np.repeat(x, 3, axis=-1).astype(np.float32)
    logits, _ = jax.jit(run.backbone.apply)(run.variables, x)
    np.testing.assert_allclose(predictions.test.logits[:, :7], logits, atol=1e-4)


@pytest.mark.slow
def test_damaged_checkpoint(finished, tmp_path) -> None:
    workdir = tmp_path / "damaged"
    shutil.copytree(finished, workdir)
    for path in (workdir / "checkpoints" / "40" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\0" * 10)
    with pytest.raises(UserError, match="checkpoints/40 is damaged.*delete that"):
        load_trained(workdir, "latest")


@pytest.mark.slow
def test_damaged_metrics_of_a_checkpoint(finished, tmp_path) -> None:
    workdir = tmp_path / "damaged"
    shutil.copytree(finished, workdir)
    (workdir / "checkpoints" / "40" / "metrics" / "metrics").write_text("{")
    with pytest.raises(UserError, match="metrics of a checkpoint.*delete the dir"):
        load_trained(workdir, "latest")
    shutil.rmtree(workdir / "checkpoints" / "40" / "metrics")
    with pytest.raises(UserError, match="metrics of a checkpoint.*delete the dir"):
        load_trained(workdir, "best")


MISTAKES = [
    (["--config.optimizer.learning_rat=1"], 'Did you mean "learning_rate"'),
    (["--config.optimizer.learning_rate=fast"], "could not convert"),
    (["--config.data.name=cifar10", "--config.data.dir=nowhere"], "data.prepare cif"),
    (["--config.train.batch_size=5000"], "larger than|from 1 to the 1000"),
    (["stray"], "unexpected argument 'stray'"),
    (["--config.init_from=none.npz"], "none.npz is not there"),
    (["--alpha=0.3"], "--alpha=0.3 is for gates; give --config.gates.inputs"),
    (["--num_processes=2"], "--num_processes=2 is for --distributed; give it too"),
    (["--workdi=x"], "Did you mean: workdir"),
]


@pytest.mark.parametrize("given, message", MISTAKES)
def test_mistake_is_one_clear_line(
    root, tmp_path, run_command, monkeypatch, given, message
) -> None:
    monkeypatch.chdir(root)
    workdir = tmp_path / "run"
    flags = ["--config=configs/digits.py", f"--workdir={workdir}", *given]
    status, _, err = run_command("train", *flags)
    assert status == 1
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert any(part in err for part in message.split("|")), err
    assert "error: " in err, last
    assert not workdir.exists()  # so that the corrected command can use it


def test_missing_config_file(root, tmp_path) -> None:
    process = start(root, "--config=configs/none.py", f"--workdir={tmp_path / 'run'}")
    status, _, err = finish(process)
    assert status == 1 and "configs/none.py" in err and "Traceback" not in err
