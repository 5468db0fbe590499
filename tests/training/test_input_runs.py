"""Whole small runs on text in length buckets and on streamed images."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image
from texts import write_texts

from eenet_jax import trained
from eenet_jax.errors import UserError
from eenet_jax.training import loop


@pytest.mark.slow
def test_a_text_run_learns_in_buckets(tmp_path, small_config):
    config = small_config(
        **write_texts(tmp_path),
        data__num_buckets=2,
        train__batch_size=16,
        train__epochs=10,
        train__eval_epochs=10,
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
        logits, _ = jax.jit(run.backbone.apply)(run.variables, x)
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


@pytest.mark.slow
def test_a_streamed_run_waits_for_its_input_and_says_how_long(tmp_path, small_config):
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


def test_text_for_an_image_network_is_refused(tmp_path, small_config):
    config = small_config(
        **write_texts(tmp_path),
        train__batch_size=16,
    )
    with pytest.raises(UserError, match="'cifar_resnet' reads image, but .* is text"):
        loop.train(config, tmp_path / "run")
