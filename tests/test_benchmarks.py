"""Benchmarks run, as far as they are quick."""

import os
import subprocess
import sys

import numpy as np
import pytest

FLAGS = {
    "equal_cost": ["some.npz", "--seeds=1", "--schedulers=msdnet,pabee"],
    "input_wait": [
        "--images=40",
        "--workers=0,1",
        "--batch_size=20",
        "--batches=2",
        "--step_ms=5",
    ],
}
PRINTED = {
    "equal_cost": "errors / maxprob_opt",
    "input_wait": "from memory",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_prints_what_it_is_for(root, tmp_path, name) -> None:
    rng = np.random.default_rng(0)
    arrays = {"costs": [1.0, 2.0]}
    for part in ("val", "test"):
        arrays[f"{part}_labels"] = rng.integers(0, 3, 60)
        arrays[f"{part}_logits"] = rng.normal(size=(2, 60, 3))
    np.savez(tmp_path / "some.npz", **arrays)
    done = run(name, FLAGS[name], root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert PRINTED[name] in done.stdout


def run(name, flags, root, folder) -> subprocess.CompletedProcess:
    """Runs a benchmark."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags],
        cwd=folder,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
