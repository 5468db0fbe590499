"""The files of launch/, started as far as one machine goes."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest
import yaml

QUICK_COMPILES = True  # see conftest.py
SMALL = [
    "--config.model.exits=(1,)",
    "--config.model.options.depth=8",
    "--config.train.max_steps=3",
    "--config.eval.batch_size=64",
]
# Starts two processes as Slurm would, with its variables.
SRUN = """#!{python}
import os, subprocess, sys
env = dict(os.environ, SLURM_JOB_ID="{job}", SLURM_NTASKS="2")
env.update(SLURM_STEP_NODELIST="localhost", SLURM_STEP_NUM_NODES="1")
started = [
    subprocess.Popen(
        sys.argv[1:], env={{**env, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}}
    )
    for i in range(2)
]
sys.exit(max(process.wait() for process in started))
"""


@pytest.fixture
def environment(tmp_path, root) -> dict[str, str]:
    """The variables that the files read; ``python`` is the tests' own."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    env["PATH"] = f"{tmp_path}:{pathlib.Path(sys.executable).parent}:{env['PATH']}"
    run = {"CONFIG": "configs/digits.py", "WORKDIR": str(tmp_path / "run")}
    return {**env, **run}


def write_command(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def launch(file: str, flags: list[str], root: pathlib.Path, env: dict[str, str]):
    command = [f"launch/{file}", *flags]
    return subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=300
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_a_slurm_array_task_does_its_run(environment, root, tmp_path):
    env = {**environment, "SWEEP": "lr,seed", "SLURM_ARRAY_TASK_ID": "4"}
    done = launch("slurm_sweep.sh", SMALL, root, env)
    assert done.returncode == 0, done.stderr
    assert "run 4 of 9, learning_rate=0.005,seed=1:" in done.stdout
    folders = [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert set(folders) - {"compiled"} == {"learning_rate=0.005,seed=1"}


@pytest.mark.slow
def test_slurm_tasks_find_each_other(environment, root, tmp_path):
    # JAX makes the port of the job's number.
    job = (free_port() - 61440) % 4096
    write_command(tmp_path / "srun", SRUN.format(python=sys.executable, job=job))
    done = launch("slurm_distributed.sh", SMALL, root, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exit 2: test accuracy") == 1  # one process prints
    assert (tmp_path / "run" / "predictions.npz").exists()


def test_tpu_hosts_all_get_the_command(environment, root, tmp_path):
    write_command(tmp_path / "gcloud", '#!/bin/sh\nprintf "%s\\n" "$@"\n')
    env = {**environment, "TPU": "slice", "ZONE": "zone"}
    flag = "--config.model.exits=(1, 2)"
    done = launch("tpu_vm.sh", [flag], root, env)
    assert done.returncode == 0, done.stderr
    *given, command = done.stdout.splitlines()
    expected = ["compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=zone"]
    assert given == [*expected, "--worker=all"]
    start = "--command=cd ~/eenet_jax && python3 train.py --distributed "
    assert command.startswith(start + "--config=configs/digits.py --workdir=")
    shown = subprocess.run(
        ["bash", "-c", command.partition("python3 ")[2].replace("train.py", "echo", 1)],
        capture_output=True,
        text=True,
    )
    assert shown.stdout.rstrip().endswith(flag)  # quoted, so that it arrives whole


@pytest.mark.slow
def test_kubernetes_pods_find_each_other(environment, root, tmp_path):
    service, job = yaml.safe_load_all((root / "launch" / "kubernetes.yaml").read_text())
    template = job["spec"]["template"]["spec"]
    (container,) = template["containers"]
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["NUM_PROCESSES"] == str(job["spec"]["completions"]) == "2"
    assert template["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    (line,) = container["args"]
    assert f"{job['metadata']['name']}-0.{template['subdomain']}:" in line

    env = {**environment, "NUM_PROCESSES": "2"}
    env["COORDINATOR"] = f"localhost:{free_port()}"
    started = [
        subprocess.Popen(
            [*container["command"], f"{line} {' '.join(map(repr, SMALL))}"],
            cwd=root,
            env={**env, "JOB_COMPLETION_INDEX": str(i)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "exit 2: test accuracy" in printed[0]
    assert (tmp_path / "run" / "predictions.npz").exists()
