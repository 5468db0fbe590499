"""Several processes that train together: parameters, evaluation, stops and losses."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import pytest

from eenet_jax.predictions import load_predictions
from eenet_jax.trained import load_trained

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = """
from configs import default


def get_config():
    c = default.get_config()
    c.model.name = "cifar_resnet"
    c.model.options = {"depth": 8, "width": 4}
    c.model.exits = (1,)
    c.data.flip = True
    c.train.batch_size = 96
    c.train.epochs = 3
    c.optimizer.learning_rate = 0.01
    c.eval.batch_size = 64
    return c
"""


def start(
    config: pathlib.Path,
    workdir: pathlib.Path,
    num_processes: int = 2,
    *more: str,
    each: Sequence[str] = (),
) -> list[subprocess.Popen]:
    """Starts train.py: two processes of two devices, or one of one.

    ``more`` are flags of them all, ``each`` of one after the other.
    """
    together = num_processes > 1
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = [f"--config={config}", f"--workdir={workdir}", *more]
    if together:
        flags += ["--distributed", f"--coordinator_address={address}"]
        flags += [f"--num_processes={num_processes}"]
    return [
        subprocess.Popen(
            [
                *(sys.executable, "train.py", *flags, *each[index : index + 1]),
                *[f"--process_id={index}"] * together,
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "2" if together else "1",
                "PYTHONPATH": str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(num_processes)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Waits for commands; returns status, stdout and stderr of each."""
    outputs = [process.communicate(timeout=240) for process in processes]
    return [
        (process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def wait_for_checkpoint(
    workdir: pathlib.Path, processes: list[subprocess.Popen]
) -> None:
    """Waits until a run has saved its first checkpoint."""
    deadline = time.monotonic() + 200
    while not (workdir / "checkpoints" / "10" / "_CHECKPOINT_METADATA").exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parameters(workdir: pathlib.Path):
    """Reads a finished run's variables."""
    run = load_trained(workdir, "latest")
    assert run.step == 30
    return jax.device_get(run.variables)


def lines(workdir: pathlib.Path) -> list[dict[str, float]]:
    """Reads what a run wrote of its validations."""
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if "val/accuracy/mean" in line]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> pathlib.Path:
    """A config file of a run of 30 steps."""
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def together(tmp_path_factory, config) -> pathlib.Path:
    """The workdir of a run of two processes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    (status, out, err), (other, silent, nothing) = finish(start(config, workdir))
    assert status == other == 0, err + nothing
    assert "test accuracy" in out and "validation accuracy" in err
    assert "accuracy" not in silent + nothing  # the first process alone speaks
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory, config) -> pathlib.Path:
    """The workdir of a run of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    ((status, _, err),) = finish(start(config, workdir, 1))
    assert status == 0, err
    return workdir


def close(a, b, tolerance):
    """Asserts that two trees of parameters are equal to a tolerance."""

    def one(a, b):
        atol = tolerance * max(1, abs(a).max())
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=atol)

    jax.tree.map(one, a, b)


@pytest.mark.slow
def test_two_processes_end_with_the_parameters_of_one(alone, together) -> None:
    close(parameters(alone), parameters(together), 1e-5)
    assert lines(alone) == lines(together)


@pytest.mark.slow
def test_heads_on_a_network_of_a_run_elsewhere(config, alone, together, tmp_path):
    # Each starts from the other's stages; features are cached, and gates follow.
    found = []
    for count, first in ((1, together), (2, alone)):
        flags = ["objective=exits", "patience=1", "epochs=2"]
        flags = [f"--config.train.{flag}" for flag in flags]
        flags += ["--config.data.flip=False", "--config.gates.inputs=average"]
        workdir = tmp_path / f"run{count}"
        flags.append(f"--config.init_from={first}")
        (status, out, err), *_ = finish(start(config, workdir, count, *flags))
        assert status == 0, err
        assert "gates, alpha 0.5" in out and "features of the frozen" in err
        found.append(load_predictions(workdir / "predictions.npz"))
    one, two = found
    np.testing.assert_allclose(one.test.logits, two.test.logits, atol=1e-3)
    np.testing.assert_allclose(
        one.val.features[0], two.val.features[0], rtol=1e-3, atol=1e-3
    )


@pytest.mark.slow
def test_parameters_cut_over_two_processes(config, alone, tmp_path) -> None:
    workdir = tmp_path / "run"
    (status, _, err), _ = finish(start(config, workdir, 2, "--config.train.fsdp=True"))
    assert status == 0, err
    # Sums over cut axes are taken in another order, and 30 steps add to that.
    close(parameters(alone), parameters(workdir), 1e-3)


@pytest.mark.slow
def test_evaluation_counts_every_sample_once(together) -> None:
    # 297 and 500 samples in batches of 64 on four devices: the last ones are padded.
    predictions = load_predictions(together / "predictions.npz")
    run = load_trained(together, "best")
    assert predictions.checkpoint_step == run.step
    found = (predictions.val.logits.argmax(-1) == predictions.val.labels).mean(1)
    line = [line for line in lines(together) if line["step"] == run.step][-1]
    assert [line[f"val/accuracy/exit_{k}"] for k in (1, 2)] == found.tolist()
    for part, split in zip(
        (run.dataset.val, run.dataset.test),
        (predictions.val, predictions.test),
        strict=True,
    ):
        np.testing.assert_array_equal(split.labels, part.labels)
        x = (part.images / 255 - run.dataset.mean) / run.dataset.std
        x = np.repeat(x, 3, axis=-1).astype(np.float32)
        logits, _ = jax.jit(run.backbone.apply)(run.variables, x)
        np.testing.assert_allclose(split.logits, logits, atol=1e-4)


@pytest.mark.slow
def test_a_lost_process_ends_the_other(config, tmp_path) -> None:
    workdir = tmp_path / "run"
    processes = start(config, workdir)
    wait_for_checkpoint(workdir, processes)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (status, _, err), _ = finish(processes)
    assert time.monotonic() - killed < 60
    assert status == 1
    assert "another process of this run was lost" in err
    assert "Start the same command again" in err  # as after SIGTERM, below


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(config, together, tmp_path) -> None:
    workdir = tmp_path / "run"
    processes = start(config, workdir)
    wait_for_checkpoint(workdir, processes)
    processes[-1].send_signal(signal.SIGTERM)  # one of them, and all stop
    results = finish(processes)
    assert [status for status, *_ in results] == [143] * 2, results
    for _, out, err in results:
        assert "stopped by SIGTERM; step" in err and "Traceback" not in err
        assert "test accuracy" not in out
    done = max(int(path.name) for path in workdir.glob("checkpoints/*"))
    assert f"step {done} of 30 is saved" in results[0][2]

    (status, _, err), _ = finish(start(config, workdir))
    assert status == 0, err
    equal = jax.tree.map(np.array_equal, parameters(workdir), parameters(together))
    assert all(jax.tree.leaves(equal))
    assert lines(workdir) == lines(together)
