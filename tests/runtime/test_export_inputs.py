"""Exported networks read files as evaluation reads its data set."""

import csv
import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from eenet_jax import backbones, config
from eenet_jax.data import inputs
from eenet_jax.runtime import answers, bundle_inputs
from eenet_jax.runtime.bundle import Bundle
from eenet_jax.runtime.export_inputs import inputs_of
from eenet_jax.trained import Trained

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film")
TEXTS = (
    "good film",
    "bad",
    "good " * 50 + "film",
    "Bad, bad film!",
    "film good",
    "bad",
)


def read_run(**data) -> Trained:
    """A run of which only the data are there."""
    c = default.get_config()
    with c.data.unlocked():
        c.data.update(val_size=2, **data)
    return Trained(c, None, None, config.load_data(c), 0, pathlib.Path())


def shown(run: Trained) -> dict:
    """What evaluation shows a network of the test part, in its order."""
    found = {}
    for batch in inputs.eval_batches(run.dataset, run.dataset.test, 3, 0):
        x = jax.device_get(inputs.prepare_eval(run.dataset)(batch.inputs))
        for i, row in enumerate(batch.rows):
            if batch.mask[i]:
                found[int(row)] = jax.tree.map(lambda leaf: leaf[i], x)  # noqa: B023
    return found


def open_bundle(bundle: Bundle, run: Trained, kind: str, folder) -> Bundle:
    """A bundle of which only the inputs are those of the run."""
    name, options = ("bert", {}) if kind == "text" else ("resnet20", {})
    spec = inputs_of(run).write(folder, backbones.build(name, num_classes=2, **options))
    manifest = {**bundle.manifest, "input": spec}
    return dataclasses.replace(bundle, path=folder, manifest=manifest)


@pytest.mark.parametrize("side", [80, 24])  # streamed, and kept whole
def test_images(bundle, tmp_path, side):
    rng = np.random.default_rng(0)
    for part, name in ((p, n) for p in ("train", "test") for n in ("one", "two")):
        target = tmp_path / "data" / part / name
        target.mkdir(parents=True)
        for i in range(4):
            width = side + 7 * i * (side == 80)
            pixels = rng.integers(0, 256, (side, width, 3), np.uint8)
            Image.fromarray(pixels).save(target / f"{i}.png")
    run = read_run(name="folder", dir=str(tmp_path / "data"), image_size=16)
    expected = shown(run)
    opened = open_bundle(bundle, run, "image", tmp_path)
    assert (opened.manifest["input"]["resize"] is None) == (side == 24)
    chunks = answers.read_inputs(opened, tmp_path / "data" / "test")
    files, pixels = map(np.concatenate, zip(*chunks, strict=True))
    assert [str(name) for name in files] == sorted(map(str, files))
    x = bundle_inputs.normalise(
        opened.manifest["input"],
        bundle_inputs.check_images(opened.manifest["input"], pixels),
    )
    assert len(x) == len(expected) == 8  # both in the order of classes and files
    np.testing.assert_allclose(x, [expected[i] for i in range(8)], atol=1e-5)


def test_texts(bundle, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    for part in ("train", "test"):
        with (tmp_path / f"{part}.csv").open("w", newline="") as file:
            rows = [(text, i % 2) for i, text in enumerate(TEXTS)]
            csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    fields = {"tokenizer": str(tmp_path / "vocab.txt"), "max_length": 40}
    run = read_run(name="csv", dir=str(tmp_path), num_buckets=2, **fields)
    expected = shown(run)
    opened = open_bundle(bundle, run, "text", tmp_path)
    spec = opened.manifest["input"]
    assert spec["boundaries"] == [int(b) for b in run.dataset.boundaries]
    ((texts, x),) = answers.read_inputs(opened, tmp_path / "texts.txt")
    ids, mask, buckets = bundle_inputs.check_texts(spec, x)
    assert tuple(texts) == TEXTS and len(set(buckets)) == 2
    for i, bucket in enumerate(buckets):
        length = spec["boundaries"][bucket]
        np.testing.assert_array_equal(ids[i, :length], expected[i]["ids"])
        np.testing.assert_array_equal(mask[i, :length], expected[i]["mask"])
