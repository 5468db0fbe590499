"""Seeds trained together end as runs of their own."""

import os
import signal

import jax
import numpy as np
import pytest

from eenet_jax import checkpoint, trained
from eenet_jax.errors import UserError
from eenet_jax.training import loop, seeds


def _runs(small_config, tmp_path, **changes):
    fields = {"train__max_steps": 3, "optimizer__name": "sgd", **changes}
    configs = [small_config(seed=seed, **fields) for seed in (3, 4)]
    return configs, [tmp_path / f"seed={c.seed}" for c in configs]


@pytest.mark.slow
def test_seeds_side_by_side_end_as_each_alone(tmp_path, small_config, monkeypatch):
    monkeypatch.setattr(seeds, "InTurn", seeds.SideBySide)  # what a CPU would take
    configs, folders = _runs(small_config, tmp_path, data__flip=True)
    seeds.train_seeds(configs, folders)
    for config, folder in zip(configs, folders, strict=True):
        alone = loop.train(config, tmp_path / "alone" / folder.name)
        together = loop.train(config, folder)
        assert together.resumed_from == together.step == 3  # nothing left to do
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            together.state.variables,
            alone.state.variables,
        )
        np.testing.assert_allclose(
            together.val_accuracy, alone.val_accuracy, atol=1.01 / 297
        )
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        assert len(lines) == 2  # of training and of validation
    weights = [
        jax.tree.leaves(trained.load_trained(folder).variables["params"])[0]
        for folder in folders
    ]
    assert (np.asarray(weights[0]) != np.asarray(weights[1])).any()


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path, run_command, monkeypatch):
    flags = [
        "--config=configs/digits.py",
        "--config.model.exits=(1,)",
        "--config.model.options.depth=8",
        "--config.train.max_steps=5",
        "--config.eval.batch_size=64",
    ]
    whole = f"--workdir={tmp_path / 'whole'}"
    status, out, err = run_command("train", *flags, whole, "--config.vmap_seeds=2")
    assert status == 0 and "2 of 2" in out, err
    status, out, err = run_command("train", *flags, whole, "--config.vmap_seeds=3")
    assert status == 0, err  # two are finished, so the third goes by itself
    assert out.count("finished before") == 2 and "3 of 3" in out

    take, taken = seeds.InTurn.take, []

    def told_to_stop(self, calls):
        taken.append(calls)
        if len(taken) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, calls)

    with monkeypatch.context() as patch:
        patch.setattr(seeds.InTurn, "take", told_to_stop)
        given = *flags, f"--workdir={tmp_path / 'cut'}", "--config.vmap_seeds=2"
        status, out, err = run_command("train", *given)
    assert status == 143 and "Traceback" not in err and "test accuracy" not in out
    assert "stopped by SIGTERM; step 2 of 5 of all seeds is saved" in err
    folders = [tmp_path / "cut" / f"seed={seed}" for seed in (0, 1)]
    assert [list(checkpoint.saved_steps(folder)) for folder in folders] == [[2], [2]]

    status, out, err = run_command("train", *given)
    assert status == 0 and "2 of 2" in out, err
    for folder in folders:
        whole = trained.load_trained(tmp_path / "whole" / folder.name)
        cut = trained.load_trained(folder)
        assert whole.step == cut.step == 5
        equal = jax.tree.map(np.array_equal, whole.variables, cut.variables)
        assert all(jax.tree.leaves(equal))


def test_the_command_takes_seeds_once(tmp_path, run_command):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path}"]
    given = *flags, "--sweep=seed", "--config.vmap_seeds=2"
    status, _, err = run_command("train", *given)
    assert status == 1 and "--config.vmap_seeds=2 cannot be given with --sweep" in err


@pytest.mark.slow
def test_a_seed_that_fails_is_named(tmp_path, small_config):
    runs = _runs(small_config, tmp_path, optimizer__learning_rate=1e30)
    with pytest.raises(UserError, match="seed=3: the loss is .*sweep=seed lets the"):
        seeds.train_seeds(*runs)


def test_what_cannot_be_trained_together_is_refused(tmp_path, small_config):
    configs, folders = _runs(small_config, tmp_path)
    plan = type("Plan", (), {"feed": None})
    with pytest.raises(
        UserError, match="vmap_seeds=2 is for networks that train on im"
    ):
        seeds._check(configs[0], plan, "image", 2)
