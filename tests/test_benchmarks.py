"""Benchmarks run, as far as they are quick."""

import os
import subprocess
import sys

import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_chunk", "equal_cost"])
def test_prints_a_ratio(root, tmp_path, name) -> None:
    flags = ["--depth=8", "--batch_size=8", "--steps=2", "--repeats=1"]
    if name == "equal_cost":
        rng = np.random.default_rng(0)
        arrays = {"costs": [1.0, 2.0]}
        for part in ("val", "test"):
            arrays[f"{part}_labels"] = rng.integers(0, 3, 60)
            arrays[f"{part}_logits"] = rng.normal(size=(2, 60, 3))
        np.savez(tmp_path / "some.npz", **arrays)
        flags = [str(tmp_path / "some.npz"), "--seeds=1"]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *flags],
        cwd=root,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout or "errors / maxprob_opt" in done.stdout
