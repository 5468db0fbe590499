"""From files to rows of CSV."""

import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image

from eenet_jax.errors import UserError
from eenet_jax.runtime import answers


def test_images_from_files(network, bundle, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 2, 2, 3), np.uint8)
    (tmp_path / "sub").mkdir()
    for name, image in zip(("a.png", "b.png", "sub/c.png"), pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    stream = io.StringIO()
    assert answers.write_answers(bundle, tmp_path, stream) == 3
    rows = [line.split(",") for line in stream.getvalue().splitlines()[1:]]
    found = bundle.predict(pixels)
    assert [row[0] for row in rows] == ["a.png", "b.png", os.path.join("sub", "c.png")]
    assert [int(row[1]) for row in rows] == found.label.tolist()
    ((names, one),) = answers.read_inputs(bundle, tmp_path / "a.png")
    assert names == [tmp_path / "a.png"]
    np.testing.assert_array_equal(one, pixels[:1])
    spec = {**bundle.manifest["input"], "resize": 3}
    streamed = dataclasses.replace(bundle, manifest={**bundle.manifest, "input": spec})
    Image.new("RGB", (30, 20)).save(tmp_path / "sub" / "large.png")
    assert answers.write_answers(streamed, tmp_path, io.StringIO()) == 4
    with pytest.raises(UserError, match=r"large.png has 30 x 20 .* trained on 2 x 2"):
        answers.write_answers(bundle, tmp_path, io.StringIO())


def test_wrong_files_are_refused(bundle, tmp_path):
    def refused(name: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            answers.write_answers(bundle, tmp_path / name, io.StringIO())

    refused("", r"has no images \(.jpg")
    (tmp_path / "a.txt").write_text("good film")
    refused("a.txt", "a.txt is not an image")
    (tmp_path / "a.npy").write_bytes(b"no array")
    refused("a.npy", "a.npy cannot be read as .npy")
    np.save(tmp_path / "b.npy", np.zeros((0, 2, 2, 3)))
    refused("b.npy", "b.npy holds no samples")
    np.save(tmp_path / "c.npy", np.zeros((1, 3, 2, 3), np.float32))
    refused("c.npy", r"--input=.*c.npy: the bundle reads images, .*\[1, 3, 2, 3\]")
    spec = {**bundle.manifest["input"], "mean": [0.5], "std": [0.5]}
    grey = dataclasses.replace(bundle, manifest={**bundle.manifest, "input": spec})
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="colour.png is in colour, .* grey images"):
        answers.write_answers(grey, tmp_path / "colour.png", io.StringIO())
