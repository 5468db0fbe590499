"""Whole small runs: heads on frozen stages, text in buckets, streamed images."""

import csv
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from eenet_jax import checkpoint, imported, trained
from eenet_jax.backbones import from_torch
from eenet_jax.errors import UserError
from eenet_jax.training import loop


def small_config(**changes):
    """A run of ten steps on the digits; ``a__b=value`` changes field ``a.b``."""
    c = default.get_config()
    c.model.options = {"depth": 8, "width": 4}
    c.model.exits = (1,)
    c.train.batch_size = 96
    c.train.epochs = 1
    c.optimizer.learning_rate = 0.05
    for name, value in changes.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c


def stored(workdir: pathlib.Path):
    """The variables of a run's latest checkpoint."""
    step = checkpoint.choose_step(workdir, "latest")
    return checkpoint.restore_as_saved(workdir, step)["variables"]


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> pathlib.Path:
    """A run that trained everything."""
    workdir = tmp_path_factory.mktemp("joint")
    loop.train(small_config(), workdir)
    return workdir


# Heads on frozen stages.


@pytest.mark.parametrize("keep", [True, False])
def test_only_the_heads_are_trained(keep, joint, tmp_path):
    config = small_config(
        init_from=str(joint), train__objective="exits", train__keep_last_head=keep
    )
    loop.train(config, tmp_path)
    before, after = stored(joint), stored(tmp_path)
    for collection in ("params", "batch_stats"):
        for part in ("stem", "stages_0", "stages_1"):
            assert same(before[collection][part], after[collection][part]), part
    assert not same(before["params"]["heads_0"], after["params"]["heads_0"])
    assert not same(before["batch_stats"]["heads_0"], after["batch_stats"]["heads_0"])
    assert same(before["params"]["heads_1"], after["params"]["heads_1"]) == keep


def test_kept_features_train_as_those_computed_anew(joint, tmp_path):
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


def test_kept_features_resume_bit_equal(joint, tmp_path, monkeypatch):
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


def imported_config(path, **changes):
    c = small_config(init_from=str(path), **changes)
    c.model.name = "resnet8_2ee"
    c.model.exits = (0,)
    c.model.options = {}
    return c


def test_imported_weights_are_evaluated_without_training(weights, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = np.arange(60, dtype=np.int32) % 10
    data = {f"{part}_images": images for part in ("train", "test")}
    data |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(tmp_path / "data.npz", **data)
    config = imported_config(
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
    expected, _ = run.backbone.apply(variables, images / np.float32(255))
    np.testing.assert_allclose(predictions.test.logits, expected, rtol=1e-4, atol=1e-5)
    imported.import_run(config, workdir)  # stands already
    config.data.val_size = 10
    with pytest.raises(UserError, match="data.val_size: 10 here, 20 there"):
        imported.import_run(config, workdir)


def test_a_network_with_fresh_heads_is_not_evaluated(weights, tmp_path):
    tensors = from_torch.load_state_dict(weights)
    kept = {k: v for k, v in tensors.items() if not k.startswith("exits.0")}
    np.savez(tmp_path / "part.npz", **kept)
    config = imported_config(tmp_path / "part.npz")
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


def test_a_run_of_another_network_is_refused(joint, tmp_path):
    config = small_config(init_from=str(joint), model__exits=())
    with pytest.raises(UserError, match="is a run of another network: they differ in"):
        loop.train(config, tmp_path)


# Text and streamed images.


def write_texts(folder: pathlib.Path) -> None:
    """Texts of different lengths whose label is told by one word."""
    words = ["good", "bad", *(f"w{i}" for i in range(20))]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    rng = np.random.default_rng(0)
    for part, size in (("train", 200), ("test", 60)):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "mood"])
            for i in range(size):
                filling = rng.choice(words[2:], rng.integers(1, 30)).tolist()
                filling.insert(int(rng.integers(len(filling) + 1)), words[i % 2])
                writer.writerow([" ".join(filling), "yes" if i % 2 == 0 else "no"])


def test_a_text_run_learns_in_buckets(tmp_path):
    write_texts(tmp_path)
    config = small_config(
        data__name="csv",
        data__dir=str(tmp_path),
        data__val_size=40,
        data__tokenizer=str(tmp_path / "vocab.txt"),
        data__text_columns=("review",),
        data__label_column="mood",
        data__num_buckets=2,
        train__batch_size=16,
        train__epochs=14,
        train__eval_epochs=14,
        optimizer__name="adamw",
        optimizer__learning_rate=1e-2,
        eval__batch_size=16,
    )
    config.model.name = "bert"
    config.model.options = {
        "num_layers": 2,
        "hidden": 16,
        "num_heads": 2,
        "intermediate": 32,
        "vocab_size": 27,
        "max_positions": 40,
        "dropout": 0.0,
        "pool": "mean",
    }
    loop.train(config, tmp_path / "run")
    predictions = trained.workdir_predictions(tmp_path / "run")
    answers = predictions.test.logits[-1].argmax(-1)
    assert np.mean(answers == predictions.test.labels) > 0.9
    # Each text alone, unpadded, gives what it gave in its bucket.
    run = trained.load_trained(tmp_path / "run")
    test = run.dataset.test
    for i in (0, 17, 59):
        ids = test.ids[i : i + 1, : test.lengths[i]]
        x = {"ids": ids, "mask": np.ones_like(ids)}
        logits, _ = run.backbone.apply(run.variables, x)
        np.testing.assert_allclose(
            logits[:, 0], predictions.test.logits[:, i], rtol=1e-3, atol=1e-4
        )


def write_images(folder: pathlib.Path) -> None:
    """Large pictures of two classes: bright above, or below."""
    rng = np.random.default_rng(0)
    for part, size in (("train", 40), ("test", 11)):
        for label, name in enumerate(("above", "below")):
            target = folder / part / name
            target.mkdir(parents=True)
            for i in range(size):
                pixels = rng.integers(0, 100, (80, 90, 3))
                half = pixels[40:] if label else pixels[:40]
                half += 120
                Image.fromarray(pixels.astype(np.uint8)).save(target / f"{i}.png")


def test_a_streamed_run_waits_for_its_input_and_says_how_long(tmp_path):
    write_images(tmp_path / "data")
    config = small_config(
        data__name="folder",
        data__dir=str(tmp_path / "data"),
        data__val_size=16,
        data__image_size=16,
        data__num_workers=0,
        train__batch_size=16,
        train__epochs=2,
        train__log_steps=2,
        eval__batch_size=16,
    )
    result = loop.train(config, tmp_path / "run")
    assert result.step == 8
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum("train/input_wait" in line for line in lines) == 4
    predictions = trained.workdir_predictions(tmp_path / "run")
    assert predictions.test.logits.shape == (2, 22, 2)


def test_text_for_an_image_network_is_refused(tmp_path):
    write_texts(tmp_path)
    config = small_config(
        data__name="csv",
        data__dir=str(tmp_path),
        data__val_size=40,
        data__tokenizer=str(tmp_path / "vocab.txt"),
        data__text_columns=("review",),
        data__label_column="mood",
        train__batch_size=16,
    )
    with pytest.raises(UserError, match="'cifar_resnet' reads image, but .* is text"):
        loop.train(config, tmp_path / "run")
