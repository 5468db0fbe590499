"""A trained run in int8: evaluated, run for real, exported."""

import json

import numpy as np
import pytest

from eenet_jax import backbones, quantised, trained
from eenet_jax.errors import UserError
from eenet_jax.runtime.bundle import load_bundle
from eenet_jax.runtime.bundle_writer import export_bundle
from eenet_jax.runtime.export_inputs import inputs_of
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import load
from eenet_jax.training import loop


@pytest.mark.slow
def test_a_run_in_int8(tmp_path, small_config, run_command):
    workdir = tmp_path / "run"
    loop.train(small_config(train__epochs=3, eval__batch_size=48), workdir)
    exact = trained.workdir_predictions(workdir)
    flags = [f"--workdir={workdir}", "--scheduler=maxprob_opt", "--mode=adaptive"]
    status, out, err = run_command("evaluate", *flags, "--budgets=0.3", "--int8")
    assert status == 0, err
    assert "int8: convolutions of stem and stages in int8, heads in float" in out
    assert {path.name for path in (workdir / "int8").iterdir()} == {
        "predictions.npz",
        "policies",
        "eval",
    }
    results = json.loads((workdir / "int8" / "eval" / "results.json").read_text())
    (record,) = results["records"]
    assert record["decided_otherwise"] == 0
    assert results["adaptive"]["dtype"] == "int8"
    assert "int8" in results["cost_details"]
    near = trained.workdir_predictions(workdir, int8=True)
    np.testing.assert_array_equal(near.costs, exact.costs)
    drop = exact.test.correct.mean(axis=1) - near.test.correct.mean(axis=1)
    assert (abs(drop) < 0.03).all()
    assert (near.test.logits != exact.test.logits).any()

    run = trained.load_trained(workdir, int8=True)
    policy = load(workdir / "int8" / "policies" / "maxprob_opt.npz").for_budget(0.3)
    export_bundle(
        run.backbone,
        run.variables,
        policy,
        tmp_path / "bundle",
        inputs=inputs_of(run),
        batch_sizes=(8,),
        platforms=("cpu", "cuda"),
    )
    found = load_bundle(tmp_path / "bundle").predict(run.dataset.test.images[:20])
    expected = simulate(policy, near.test.take(np.arange(20)), near.costs)
    np.testing.assert_array_equal(found.exit_index, expected.exit_index)
    np.testing.assert_array_equal(found.label, expected.labels)


def test_texts_have_no_convolutions():
    network = backbones.build("minilm", num_classes=2)
    with pytest.raises(UserError, match="--int8 is for convolutions, and minilm reads"):
        quantised.in_int8(network, {}, None, 0)
