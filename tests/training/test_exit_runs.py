"""Whole small runs: heads on frozen stages, and weights from elsewhere."""

import pathlib

import jax
import numpy as np
import pytest

from eenet_jax import checkpoint, imported, trained
from eenet_jax.backbones import from_torch, to_torch
from eenet_jax.errors import UserError
from eenet_jax.inference import Predictor
from eenet_jax.training import loop


def stored(workdir: pathlib.Path):
    """The variables of a run's latest checkpoint."""
    step = checkpoint.choose_step(workdir, "latest")
    return checkpoint.restore_as_saved(workdir, step)["variables"]


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.fixture(scope="module")
def joint(tmp_path_factory, small_config):
    """A run that trained everything."""
    workdir = tmp_path_factory.mktemp("joint")
    loop.train(small_config(), workdir)
    return workdir


# Heads on frozen stages.


@pytest.mark.slow
def test_only_the_heads_are_trained(joint, tmp_path, small_config):
    config = small_config(
        init_from=str(joint), train__objective="exits", train__keep_last_head=True
    )
    loop.train(config, tmp_path)
    before, after = stored(joint), stored(tmp_path)
    for collection in ("params", "batch_stats"):
        for part in ("stem", "stages_0", "stages_1"):
            assert same(before[collection][part], after[collection][part]), part
    assert not same(before["params"]["heads_0"], after["params"]["heads_0"])
    assert not same(before["batch_stats"]["heads_0"], after["batch_stats"]["heads_0"])
    assert same(before["params"]["heads_1"], after["params"]["heads_1"])


@pytest.mark.slow
def test_a_last_head_of_other_classes_is_not_kept(joint, tmp_path, small_config):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (240, 8, 8), np.uint8),
        "train_labels": np.arange(240) % 3,
        "test_images": rng.integers(0, 256, (30, 8, 8), np.uint8),
        "test_labels": np.arange(30) % 3,
    }
    np.savez(tmp_path / "data.npz", **arrays)
    config = small_config(
        init_from=str(joint),
        init_partial=True,
        train__objective="exits",
        train__keep_last_head=True,
        data__name="npz",
        data__dir=str(tmp_path / "data.npz"),
        data__val_size=40,
    )
    with pytest.raises(UserError, match="tells the classes of data.name='digits'"):
        loop.train(config, tmp_path / "run")
    variables = jax.device_get(trained.load_trained(joint).variables)
    np.savez(
        tmp_path / "weights.npz",
        **to_torch.single_exit(trained.load_trained(joint).backbone, variables),
    )
    config.init_from = str(tmp_path / "weights.npz")
    with pytest.raises(UserError, match="has no last head of 3 classes to keep"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_kept_features_train_as_those_computed_anew(joint, tmp_path, small_config):
    runs = []
    for gib in (8.0, 0.0):
        config = small_config(
            init_from=str(joint), train__objective="exits", train__cache_gib=gib
        )
        loop.train(config, tmp_path / str(gib))
        runs.append(stored(tmp_path / str(gib)))
    close = jax.tree.map(
        lambda a, b: np.abs(a - b).max() < 1e-4 * (1 + np.abs(b).max()), *runs
    )
    assert all(jax.tree.leaves(close))


@pytest.mark.slow
def test_kept_features_resume_bit_equal(joint, tmp_path, monkeypatch, small_config):
    config = small_config(
        init_from=str(joint), train__objective="exits", train__epochs=2
    )
    loop.train(config, tmp_path / "whole")
    save = checkpoint.save

    def save_once(saved, step, *rest):
        if step > 10:
            raise KeyboardInterrupt
        save(saved, step, *rest)

    monkeypatch.setattr(checkpoint, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config, tmp_path / "cut")
    monkeypatch.setattr(checkpoint, "save", save)
    result = loop.train(config, tmp_path / "cut")
    assert (result.resumed_from, result.step) == (10, 20)
    assert same(stored(tmp_path / "whole"), stored(tmp_path / "cut"))


@pytest.mark.slow
def test_heads_stop_at_their_best(joint, tmp_path, monkeypatch, small_config):
    config = small_config(
        init_from=str(joint),
        train__objective="exits",
        train__epochs=9,
        train__patience=2,
    )
    told = iter([[0.2, 0.5], [0.4, 0.3], [0.4, 0.3], [0.3, 0.5]])
    seen = []

    def accuracy(self, variables, split):
        seen.append(jax.device_get(variables))
        return np.array(next(told))

    monkeypatch.setattr(Predictor, "accuracy", accuracy)
    result = loop.train(config, tmp_path)
    assert result.step == 40  # of 90: both have waited for two validations
    np.testing.assert_allclose(result.val_accuracy, [0.4, 0.5])
    best = trained.load_trained(tmp_path).variables
    for collection in ("params", "batch_stats"):
        assert same(best[collection]["heads_0"], seen[1][collection]["heads_0"])
        assert not same(best[collection]["heads_0"], seen[3][collection]["heads_0"])
    assert same(best["params"]["heads_1"], seen[0]["params"]["heads_1"])
    monkeypatch.setattr(Predictor, "accuracy", lambda *_: np.zeros(2))
    again = loop.train(config, tmp_path)
    assert (again.step, again.resumed_from) == (40, 40)  # finished


# Weights from elsewhere.


@pytest.fixture
def weights(tmp_path) -> pathlib.Path:
    """A published multi-exit checkpoint's form, with weights drawn at random."""
    rng = np.random.default_rng(0)
    from eenet_jax import backbones

    backbone = backbones.build("resnet8_2ee", num_classes=10)
    naming = from_torch.FORMATS["resnet8_2ee"][0].naming(backbone.module)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = tuple(entry.key for entry in path[1:])
        value = 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        if names[-1] in ("var", "scale"):
            value = 1 + np.abs(value)
        if names[-1] == "kernel":
            value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
        tensors[naming(names)] = value
    np.savez(tmp_path / "weights.npz", **tensors)
    return tmp_path / "weights.npz"


def imported_config(small_config, path, **changes):
    c = small_config(init_from=str(path), **changes)
    c.model.name = "resnet8_2ee"
    c.model.exits = (0,)
    c.model.options = {}
    return c


@pytest.mark.slow
def test_imported_weights_are_evaluated(weights, tmp_path, small_config):
    images = np.random.default_rng(1).integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 10
    data = {f"{part}_images": images for part in ("train", "test")}
    data |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(tmp_path / "data.npz", **data)
    config = imported_config(
        small_config,
        weights,
        data__name="npz",
        data__dir=str(tmp_path / "data.npz"),
        data__val_size=20,
        data__mean=(0.0, 0.0, 0.0),
        data__std=(1.0, 1.0, 1.0),
        train__batch_size=8,
        eval__batch_size=24,
    )
    workdir = tmp_path / "run"
    imported.import_run(config, workdir)
    predictions = trained.workdir_predictions(workdir)
    assert predictions.checkpoint_step == 0
    run = trained.load_trained(workdir)
    variables = from_torch.convert("resnet8_2ee", from_torch.load_state_dict(weights))
    expected, _ = jax.jit(run.backbone.apply)(variables, images / np.float32(255))
    np.testing.assert_allclose(predictions.test.logits, expected, rtol=1e-4, atol=1e-5)
    imported.import_run(config, workdir)  # stands already
    config.data.val_size = 10
    with pytest.raises(UserError, match="data.val_size: 10 here, 20 there"):
        imported.import_run(config, workdir)


@pytest.mark.slow
def test_a_network_with_fresh_heads_is_not_evaluated(weights, tmp_path, small_config):
    tensors = from_torch.load_state_dict(weights)
    kept = {k: v for k, v in tensors.items() if not k.startswith("exits.0")}
    np.savez(tmp_path / "part.npz", **kept)
    config = imported_config(small_config, tmp_path / "part.npz")
    with pytest.raises(
        UserError, match="part.npz: (?s:.*)12 missing(?s:.*)partial=True"
    ):
        imported.import_run(config, tmp_path / "run")
    config.init_partial = True
    with pytest.raises(UserError, match="no weights for heads_0: train them first"):
        imported.import_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.init_from = ""
    with pytest.raises(UserError, match="give --config.init_from=PATH too"):
        imported.import_run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__objective": "exits"}, "needs init_from, the file of their weights"),
        ({"train__keep_last_head": True}, "is for train.objective='exits' only"),
        ({"data__mean": (0.5, 0.5, 0.5)}, "must have as many numbers"),
        (
            {"data__mean": (0.5,) * 3, "data__std": (1.0,) * 3},
            "must have 1 numbers for data.name='digits'",
        ),
        ({"data__name": "folder", "data__dir": "no"}, "no"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message, tmp_path, small_config):
    with pytest.raises(UserError, match=message):
        loop.train(small_config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_of_another_kind_leave_no_workdir(weights, tmp_path, small_config):
    config = small_config(init_from=str(weights))
    with pytest.raises(UserError, match="weights.npz: .*model.name='cifar_resnet'"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_of_another_network_is_refused(joint, tmp_path, small_config):
    config = small_config(init_from=str(joint), model__exits=())
    with pytest.raises(UserError, match="is a run of another network: they differ in"):
        loop.train(config, tmp_path)
