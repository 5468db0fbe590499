"""ResNet-8 with two exits: size, arithmetic, image sizes, exits, shortcut."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import resnet8
from eenet_jax.backbones.resnet import BlockSpec
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _build(num_classes: int = 10, **options):
    return backbones.build("resnet8_2ee", num_classes=num_classes, **options)


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _drawn(shapes):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.abs(rng.standard_normal(leaf.shape, np.float32)) / 4, shapes
    )


def test_it_has_the_parameters_of_the_checkpoints():
    parts = _build().part_params(_shapes(_build()))
    sizes = {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        for part, tree in parts.items()
    }
    # What resnet8_2ee_230721b.npz holds: both heads, the last of 64 x 10 + 10.
    assert sizes == {"stem": 480, "stages": 77_056, "heads": 19_082 + 650}


def test_its_arithmetic_is_that_of_its_convolutions():
    backbone = _build()
    found = exit_mflops(backbone, _shapes(backbone), backbone.example())
    stem = 3 * 16 * 9 * 32**2
    early = 16 * 32 * 9 * 16**2 + 32 * 32 * 9 * 8**2 + 512 * 10
    blocks = 2 * 16 * 16 * 9 * 32**2
    for width, side in ((32, 16), (64, 8)):
        blocks += (width // 2 * width * (9 + 1) + width**2 * 9) * side**2
    expected = 2e-6 * np.array([stem + early, stem + early + blocks + 640])
    np.testing.assert_allclose(found.costs, expected, rtol=1e-9)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (8, 8), (33, 47), (1, 1)])
def test_logits_have_their_shape_at_any_size(size):
    backbone = _build(7)
    x = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(backbone.apply, _shapes(backbone), x)
    assert logits.shape == (2, 3, 7) and logits.dtype == jnp.float32


def test_its_early_head_reads_the_stem():
    backbone = _build(5)
    variables = _shapes(backbone)
    assert backbone.part_params(variables)["stages"][0] == {}
    carry = np.ones((2, 6, 6, 16), np.float32)
    assert backbone.stage(0, variables, carry) is carry
    stem = jax.eval_shape(backbone.stem, variables, backbone.example())
    assert stem.shape == (1, 32, 32, 16)


@pytest.mark.parametrize(("exits", "blocks"), [((), [3]), ((0, 1, 2), [0, 1, 1, 1])])
def test_exits_may_lie_at_any_block(exits, blocks):
    backbone = _build(exits=exits)
    shapes = _shapes(backbone)
    stages = backbone.part_params(shapes)["stages"]
    assert [len(stage) for stage in stages] == blocks
    logits, _ = jax.eval_shape(backbone.apply, shapes, backbone.example(2))
    assert logits.shape == (len(exits) + 1, 2, 10)


def test_an_exit_ignores_later_stages_and_heads():
    backbone = _build(5)
    variables = _drawn(_shapes(backbone))
    x = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    apply = jit(lambda v, x: backbone.apply(v, x)[0])
    before = np.asarray(apply(variables, x))
    params = {
        name: jax.tree.map(lambda leaf: leaf + 0.1, tree) if name[-1] == "1" else tree
        for name, tree in variables["params"].items()
    }
    after = np.asarray(apply({**variables, "params": params}, x))
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).all()


def test_training_mode_changes_all_batch_statistics():
    backbone = _build(5)
    variables = _drawn(_shapes(backbone))
    x = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    _, state = jit(functools.partial(backbone.apply, train=True))(variables, x)
    changed = jax.tree.map(
        lambda a, b: (np.asarray(a) != b).any(),
        state["batch_stats"],
        variables["batch_stats"],
    )
    assert len(jax.tree.leaves(changed)) == 18 and all(jax.tree.leaves(changed))


def test_a_shortcut_is_a_convolution_with_bias_and_no_batch_norm(key):
    block = resnet8.Block(BlockSpec(4, 2), jnp.float32)
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 2), np.float32)
    shapes = jax.eval_shape(block.init, key, x)
    assert set(shapes["params"]) == {"conv1", "bn1", "conv2", "bn2", "shortcut_conv"}
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    shortcut = variables["params"]["shortcut_conv"]
    shortcut["kernel"] += np.arange(8).reshape(1, 1, 2, 4) / 8
    shortcut["bias"] += 0.5
    expected = np.maximum(x[:, ::2, ::2] @ shortcut["kernel"][0, 0] + 0.5, 0)
    y = jit(block.apply)(variables, x)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_an_exit_behind_the_last_block_is_refused():
    with pytest.raises(UserError, match=r"no exit can be at 3; .* counts from 0 to 2"):
        _build(exits=(3,))
