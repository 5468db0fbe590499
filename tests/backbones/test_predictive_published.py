"""Predictive Exit's networks against the published code's names and logits."""

import functools
import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import from_torch

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VGG, STL10, RESNET = "predictive_vgg19", "predictive_vgg19_stl10", "predictive_resnet34"
FIXTURES = {VGG: "vgg19_cifar10", STL10: "vgg19_stl10", RESNET: "resnet34_cifar10"}


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _tensor(name: str, shape: list[int], kind: str) -> np.ndarray:
    """Draws a tensor by the recipe of shared/fixtures/predictive_exit, seed 0."""
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    n = rng.standard_normal(shape)
    kind, _, number = kind.partition(":")
    if kind == "bn":
        by_name = {"running_mean": 0.2 * n, "running_var": np.exp(0.3 * n)}
        by_name |= {"weight": 1 + 0.1 * n, "bias": 0.1 * n}
        n = by_name[name.rpartition(".")[2]]
    elif kind == "bof":
        base = float(number)
        n = base * (1 + 0.1 * n) if base else 0.1 * n
    else:
        gain = {"conv": float(number or 2), "linear": 1}.get(kind)
        n *= math.sqrt(gain / math.prod(shape[1:])) if gain else 0.05
    return n.astype(np.float32)


def _recipe(shared, name):
    path = shared / "fixtures" / "predictive_exit" / f"{FIXTURES[name]}_recipe.json"
    return json.loads(path.read_text())["tensors"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXTURES)
def test_published_logits_agree(name, shared):
    state_dict = {row[0]: _tensor(*row) for row in _recipe(shared, name)}
    path = shared / "fixtures" / "predictive_exit" / f"{FIXTURES[name]}_golden.npz"
    with np.load(path) as file:
        golden = {key: file[key] for key in file.files}
    variables = from_torch.convert(name, state_dict)
    backbone = backbones.build(name, num_classes=10)
    x = jnp.asarray(golden["input"].transpose(0, 2, 3, 1))
    found = jit(lambda variables, x: backbone.apply(variables, x)[0])(variables, x)
    expected = [*golden["exit_logits"], golden["final_logits"]]
    for ours, theirs in zip(found, expected, strict=True):
        limit = 1e-4 * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)


def _taken(shared, backbone, shapes):
    """Takes tensors that are filled with their number; returns the keys too."""
    rows = _recipe(shared, backbone.name)
    tensors = {
        key: np.broadcast_to(np.float32(i), shape)
        for i, (key, shape, _) in enumerate(rows)
    }
    found = from_torch.take(backbone, shapes, tensors)
    assert not found.fresh and not found.skipped
    return found.variables, [row[0] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXTURES)
def test_all_tensors_have_their_places(name, shared):
    backbone = backbones.build(name, num_classes=10)
    variables, keys = _taken(shared, backbone, _shapes(backbone))
    used = {int(leaf.flat[0]) for leaf in jax.tree.leaves(variables)}
    assert used == set(range(len(keys)))


def test_keys_are_the_published_ones(shared):
    def key(variables, part, *path):
        leaf = functools.reduce(lambda tree, name: tree[name], (part, *path), variables)
        return keys[int(leaf.flat[0])]

    backbone = backbones.build(VGG, num_classes=10, exits=(2, 7))
    variables, keys = _taken(shared, backbone, _shapes(backbone))
    params = variables["params"]
    assert key(params, "stages_2", "blocks_4", "bn", "scale") == "bn9.weight"
    assert key(params, "heads_0", "hidden", "kernel") == "exit_0_fc.weight"
    codebook = ("heads_1", "pooling", "codebook")
    assert key(params, *codebook, "bias") == "exit_2.codebook.bias"
    # Heads of their own take copies, and other exits' tensors are left.
    exits = (3, 4, 9)
    backbone = backbones.build(RESNET, num_classes=10, exits=exits, share_heads=False)
    variables, keys = _taken(shared, backbone, _shapes(backbone))
    params, mean = variables["params"], variables["batch_stats"]
    for k in range(2):
        assert key(params, f"heads_{k}", "pooling", "n1") == "block2_exit_0.n1"
        assert key(params, f"heads_{k}", "hidden", "bias") == "layer1_exit_0_fc.bias"
    assert key(params, "heads_2", "linear", "kernel") == "layer2_exit_1_fc.weight"
    assert key(params, "heads_3", "linear", "bias") == "fc.bias"
    assert key(params, "stem", "pre", "bn", "bias") == "pre.1.bias"
    block = ("stages_2", "blocks_2")  # the seventh half block: layer 2 begins
    assert key(params, *block, "shortcut_conv", "kernel") == (
        "layer2_block1_shortcut.weight"
    )
    assert key(mean, *block, "shortcut_bn", "var") == "layer2_block1_bn3.running_var"
    assert key(params, "stages_3", "blocks_22", "conv2", "kernel") == (
        "layer4_block3_conv2.weight"
    )
