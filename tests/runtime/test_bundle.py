"""Exported bundles: they answer as the network does, elsewhere too, and are checked."""

import csv
import dataclasses
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_cases import Layer
from bundle_cases import INPUTS, LADDERS, NAMES

from eenet_jax import runtime
from eenet_jax.backbones.staged import Backbone, StagedModule
from eenet_jax.data import images
from eenet_jax.errors import UserError
from eenet_jax.runtime import bundle_inputs, programs

ROUNDING = 1e-6  # between programs that XLA compiles from other text; a few units
# Runs a command where the network's and the schedulers' code cannot be imported.
HIDDEN = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        hidden = ("eenet_jax.backbones", "eenet_jax.schedulers", "flax", "optax")
        if name.startswith(hidden):
            raise ModuleNotFoundError(f"{name} is hidden")
sys.meta_path.insert(0, Refuse())
try:
    import eenet_jax.runtime.staged
except ModuleNotFoundError as error:
    assert "eenet_jax.backbones" in str(error)
else:
    raise SystemExit("the backbones are not hidden")
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def straight(network, eenet, rows, size, latest_exit=2):
    """Answers of ``adaptive_predict`` to one batch, padded as a bundle pads it."""
    missing = size - len(rows)
    padded = np.append(rows, np.repeat(rows[-1:], missing))
    limits = np.pad(np.broadcast_to(latest_exit, len(rows)), (0, missing))
    found = runtime.adaptive_predict(
        network.backbone,
        network.variables,
        eenet,
        network.x[padded],
        ladders=LADDERS.get(size),
        latest_exit=limits,
    )
    return [np.asarray(part)[: len(rows)] for part in found]


def same(found, expected, rtol=0.0) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        by = rtol if ours.dtype == np.float32 else 0.0
        np.testing.assert_allclose(ours, theirs, rtol=by, atol=0)


@pytest.mark.parametrize(("number", "batches"), [(1, [1]), (7, [8]), (21, [8, 8, 8])])
def test_answers_are_those_of_the_network(network, eenet, bundle, number, batches):
    rows, start, expected = np.arange(number), 0, []
    for size in batches:
        part = rows[start : start + size]
        expected.append(straight(network, eenet, part, size))
        start += size
    expected = [np.concatenate(parts) for parts in zip(*expected, strict=True)]
    found = bundle.predict(network.x[rows])
    same(found, expected, ROUNDING)
    assert number < 21 or len(np.unique(found.exit_index)) == 3


def test_no_samples_and_limits(network, eenet, bundle):
    none = bundle.predict(network.x[:0])
    assert none.probs.shape == (0, 4) and none.label.shape == (0,)
    limits = np.arange(7) % 3
    expected = straight(network, eenet, np.arange(7), 8, limits)
    found = bundle.predict(network.x[:7], latest_exit=limits)
    same(found, expected, ROUNDING)
    assert (found.exit_index <= limits).all()
    assert not bundle.predict(network.x[:7], latest_exit=0).exit_index.any()


def test_samples_are_cut_into_batches():
    assert list(bundle_inputs.parts(9, [1, 4])) == [(0, 4, 4), (4, 8, 4), (8, 9, 1)]
    assert list(bundle_inputs.parts(6, [1, 4])) == [(0, 4, 4), (4, 6, 4)]
    assert list(bundle_inputs.parts(2, [3])) == [(0, 2, 3)]


def test_pixels_are_normalised_as_in_training(network, bundle):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), np.uint8)
    spec = bundle.manifest["input"]
    normalise = jax.jit(lambda x: images.normalise(x, INPUTS.mean, INPUTS.std))
    ours = bundle_inputs.normalise(spec, pixels)
    np.testing.assert_allclose(ours, normalise(pixels), atol=1e-6)
    same(bundle.predict(pixels), bundle.predict(ours))
    grey = {**spec, "mean": [0.3], "std": [0.4]}
    one = bundle_inputs.check_images(grey, pixels[..., :1])
    three = bundle_inputs.check_images(grey, np.repeat(pixels[..., :1], 3, axis=3))
    np.testing.assert_array_equal(one, three)
    expected = images.normalise(one, (0.3,), (0.4,))
    np.testing.assert_allclose(bundle_inputs.normalise(grey, one), expected, atol=1e-6)
    with pytest.raises(UserError, match="sample 0 is in colour"):
        bundle_inputs.check_images(grey, pixels)


def test_stages_run_one_by_one_for_any_batch(network, bundle):
    carry = [network.x[:5]]
    for k in range(3):
        carry, logits = bundle.stage(k)(carry)
        np.testing.assert_allclose(logits, network.logits[k, :5], atol=1e-5)
    with pytest.raises(UserError, match="no stages for {'stage': 3,"):
        bundle.stage(3)


class Counts(Layer):
    """Needs the batch size as a number, while it is being traced."""

    def __call__(self, carry, train=False):
        return [carry for _ in range(carry["x"].shape[0])][0]


class CountsInHead(Layer):
    @nn.compact
    def __call__(self, carry, train=False):
        return nn.Dense(self.width)(Counts(1)(carry)["x"])


def test_stages_that_need_a_number_are_left_out_with_the_reason(bundle):
    def lowered(stages, heads):
        module = StagedModule(Layer(8), stages, heads)
        backbone = Backbone("counts", 3, 4, "float32", module)
        x = jnp.zeros((1, 2, 2, 3))
        variables = jax.eval_shape(backbone.init, jax.random.key(0), x)
        return programs.lower_stages(backbone, variables, x, ("cpu",))

    layer, head = Layer(8), Layer(4, 3.0)
    first, *others = lowered((layer, Counts(8), layer), (head, head, head))
    assert isinstance(first, bytes) and others[0].startswith("TypeError: ")
    assert others[1] == f"stage 1 before it: {others[0]}"
    kinds = map(type, lowered((layer, layer, layer), (head, CountsInHead(4), head)))
    assert list(kinds) == [bytes, str, bytes]
    entry = {"file": None, "stage": 0, "length": None, "reason": others[0]}
    without = {**bundle.manifest, "stages": [entry]}
    with pytest.raises(UserError, match="could not be exported .*TypeError"):
        dataclasses.replace(bundle, manifest=without).stage(0)


def test_a_process_without_the_network_code_answers_alike(
    network, bundle, folder, root, tmp_path
):
    np.save(tmp_path / "x.npy", network.x[:13])
    out = tmp_path / "answers.csv"
    command = [sys.executable, "-c", HIDDEN, "eenet_jax.runtime.predict"]
    flags = [f"--bundle={folder}", f"--input={tmp_path / 'x.npy'}", f"--out={out}"]
    # As this process compiles, without what it has compiled.
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    env = {"PYTHONPATH": str(root), **env}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [*command, *flags], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"13 answers written: {out}\n"
    probs, label, exit_index, _ = bundle.predict(network.x[:13])
    table = list(csv.DictReader(out.open()))
    assert list(table[0]) == ["input", "label", "class_name", "probability", "exit"]
    for i, row in enumerate(table):
        assert row["input"] == str(i) and int(row["label"]) == label[i]
        assert row["class_name"] == NAMES[label[i]]
        assert np.float32(row["probability"]) == probs[i].max()  # bit for bit
        assert int(row["exit"]) == exit_index[i] + 1
    flags[1] = f"--input={tmp_path / 'nothing'}"
    done = subprocess.run([*command, *flags], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error: {flags[1]} is not there; check the path\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"float32 \[N, 2, 2, 3\], .*of shape \[2, 2, 3\]"),
        (lambda x: x[:, :1], r"shape \[7, 1, 2, 3\]"),
        (lambda x: x[..., :1], r"shape \[7, 2, 2, 1\]"),
        (lambda x: np.zeros((7, 2, 2, 1), np.uint8), r"is uint8 of shape \[7, 2, 2, 1"),
        (lambda x: x.astype(int), "x is int64 of shape"),
        (lambda x: {"ids": x}, "reads images, .*; x is a mapping"),
        (lambda x: np.where(np.arange(7)[:, None, None, None] == 3, np.nan, x), "3;"),
        (lambda x: x * np.inf, "NaN or infinity in 7 of 7 samples, first in sample 0"),
    ],
)
def test_wrong_inputs_are_refused(network, bundle, change, message):
    with np.errstate(invalid="ignore"), pytest.raises(UserError, match=message):
        bundle.predict(change(network.x[:7]))
