"""The commands of bundles, on a run that has a checkpoint but was not trained."""

import csv
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import runtime, schedulers, trained
from eenet_jax.costs.profile import Profile
from eenet_jax.data import inputs
from eenet_jax.schedulers.policy import Policy


@pytest.mark.slow
def test_a_run_is_exported_and_answers(tmp_path, root, write_run):
    def run(module: str, *flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", f"eenet_jax.runtime.{module}", *flags]
        env = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True
        )

    write_run(tmp_path / "run")
    flags = ["--workdir=run", "--out=bundle", "--batch_sizes=8", "--platforms=cpu,cuda"]
    done = run("export", *flags)
    assert done.returncode == 1 and "lagrangian.npz is not there" in done.stderr

    network = trained.load_trained(tmp_path / "run")
    pixels = network.dataset.test.images[:8]
    x = inputs.prepare_eval(network.dataset)(pixels)
    logits, _ = jax.jit(network.backbone.apply)(network.variables, x)
    first = jax.nn.softmax(logits[0]).max(axis=-1)
    thresholds = jnp.array([jnp.sort(first)[3:5].mean(), -jnp.inf])
    policy = Policy("max_prob", {}, thresholds)
    schedulers.save_policy(tmp_path / "policy.npz", policy)
    done = run("export", *flags, "--policy=policy.npz", "--budget=2")
    assert done.returncode == 1 and "one policy; leave out --budget=2" in done.stderr
    times = np.array([[4.0, 8.0], [4.0, 8.0]])  # half a batch takes half the time
    profile = Profile(
        *("cifar_resnet", "float32", "cpu", "jax", 3, (4, 8)),
        *(times, np.stack([times, times]), np.zeros(2)),
    )
    profile.save(tmp_path / "profile.json")
    planned = "--profile=profile.json"
    done = run("export", *flags, "--policy=policy.npz", planned)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("written for cpu, cuda: bundle\n")
    assert "MB  batch_8.jaxexport" in done.stdout
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    notes = {"checkpoint_step": 1, "data": "digits", "policy_file": "policy.npz"}
    assert manifest["notes"] == {**notes, "dtype": "float32"}
    assert [p["ladders"] for p in manifest["programs"]] == [[[8], [4, 8]]]

    np.save(tmp_path / "x.npy", pixels)
    done = run("predict", "--bundle=bundle", "--input=x.npy")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    found = runtime.adaptive_predict(network.backbone, network.variables, policy, x)
    assert [int(row["label"]) for row in rows] == found.label.tolist()
    assert [int(row["exit"]) - 1 for row in rows] == found.exit_index.tolist()
    assert len(set(found.exit_index.tolist())) == 2
    probabilities = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(probabilities, found.probs.max(axis=-1), atol=1e-5)
    assert [row["class_name"] for row in rows] == [str(i) for i in found.label]
