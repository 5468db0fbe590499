"""A trained run, evaluated by really running its policies."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from eenet_jax import adaptive, evaluation, schedulers, trained
from eenet_jax.costs import energy
from eenet_jax.costs.profile import load_profile
from eenet_jax.errors import UserError
from eenet_jax.report.files import write_report
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import leenet
from eenet_jax.training import gates, loop


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("adaptive") / "run"


@pytest.mark.slow
def test_policies_are_run_timed_and_compared(
    workdir, small_config, tmp_path, root, monkeypatch
):
    recipe = leenet.Recipe(alphas=4, steps=20, penalties=((1e-3, 0.0),))
    for name in ("fit", "fit_alpha"):
        quick = functools.partial(getattr(leenet, name), recipe=recipe)
        monkeypatch.setattr(leenet, name, quick)
    monkeypatch.setitem(schedulers.SCHEDULERS, "leenet", leenet.fit)
    changes = {"train__epochs": 2, "eval__batch_size": 8, "gates__inputs": "both"}
    loop.train(small_config(**changes), workdir)
    predictions = trained.workdir_predictions(workdir)
    results = evaluation.evaluate(
        predictions,
        schedulers=["maxprob_opt", "leenet"],
        budgets=np.array([predictions.costs.mean(), predictions.costs[-1]]),
        key=jax.random.key(0),
        run=adaptive.runner(workdir, "best", predictions, None),
    )
    assert len(results["records"]) == 4
    assert [f.shape[1] for f in predictions.val.features] == [8]  # 2 x 4 channels
    assert predictions.gate_costs.tolist() == [1.6e-5, 0.0]
    assert any("alpha" in r for r in results["records"] if r["scheduler"] == "leenet")
    for record in results["records"]:
        for way in (record, record["queued"]):
            assert way["decided_otherwise"] == 0
            assert way["samples_per_second"] > 0
        assert record["adaptive_accuracy"] == pytest.approx(
            record["test_accuracy"], abs=1e-3
        )
        for name in ("wall", "full_wall", "ideal_wall"):
            assert record[f"{name}_ms_per_sample"] > 0
        assert record["batch_ms"]["p50"] <= record["batch_ms"]["p99"]
    text = write_report(results, tmp_path)
    assert "full/wall" in text and "Wall time on" in text
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["adaptive"]["batch_size"] == 8
    assert len(stored["adaptive"]["exits_alone"]) == len(predictions.costs)

    file = tmp_path / "profile.json"
    done = subprocess.run(
        [sys.executable, "-m", "eenet_jax.runtime.profile", f"--workdir={workdir}"]
        + [f"--out={file}", "--batch_size=2", "--repeats=2"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "stage 2" in done.stdout and str(file) in done.stdout
    run = trained.load_trained(workdir)
    profile = load_profile(file, run.backbone)
    timed, details = trained.predictions_with_cost(
        workdir, "best", "latency_ms", latency_batch_size=1, profile=str(file)
    )
    assert timed.cost_unit == "latency_ms" and details["batch_size"] == 2
    spent, details = trained.predictions_with_cost(
        workdir, "best", "energy_mj", latency_batch_size=1, profile=str(file)
    )
    watts = spent.costs / timed.costs
    np.testing.assert_allclose(watts, energy.DEFAULT_MODEL.watts[-1])
    assert spent.cost_unit == "energy_mj" and "modelled" in details["energy"]
    np.testing.assert_allclose(timed.costs, profile.exit_costs().costs)
    spent = []
    for alpha in (0.0, 1.0):  # a finished run gets other gates
        run.config.gates.alpha = alpha
        loop.check_workdir(run.config, workdir)
        left = gates.train_gates(run.config, predictions, workdir)
        policy = schedulers.load(workdir / gates.FILE)
        assert policy.scorer == "gate_both"
        again = simulate(policy, predictions.test, *predictions.prices)
        np.testing.assert_array_equal(again.exit_index, left.exit_index)
        spent.append(left.mean_cost)
    cheapest = policy.charges(*predictions.prices)[0]
    assert 0.999 * cheapest < spent[1] < 1.05 * cheapest < spent[0]
    with pytest.raises(UserError, match="none.json cannot be read"):
        adaptive.runner(workdir, "best", predictions, str(tmp_path / "none.json"))
