"""The small AlexNet: size and arithmetic by hand, shapes, exits, gates, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import from_torch
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def _build(num_classes: int = 10, **options):
    return backbones.build("alexnet", num_classes=num_classes, **options)


@functools.cache
def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# Sizes and arithmetic.


def test_it_has_the_parameters_of_its_layers():
    parts = _build().part_params(_shapes(_build()))
    convolutions = (
        [25 * 3 * 32 + 32],
        [25 * 32 * 64 + 64],
        [9 * 64 * 96 + 96, 9 * 96 * 96 + 96, 9 * 96 * 64 + 64],
    )
    stages = [_size(tree) for tree in parts["stages"]]
    assert stages == [sum(numbers) for numbers in convolutions]
    assert stages == [2_432, 51_264, 193_792]
    # Three convolutions of width 8 and 16 with BatchNorm, and a linear layer.
    early = [9 * (4 * w * w + w * w + w * w) + 3 * 2 * w + 10 * w + 10 for w in (8, 16)]
    last = 4 * 4 * 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    heads = [_size(tree) for tree in parts["heads"]]
    assert heads == [*early, last] == [3_594, 14_090, 330_762]
    assert _size(parts["stem"]) == 0


def test_its_arithmetic_is_that_of_its_layers():
    backbone = _build()
    found = exit_mflops(backbone, _shapes(backbone), backbone.example())
    stages = [
        25 * 3 * 32 * 32**2,
        25 * 32 * 64 * 16**2,
        9 * (64 * 96 + 96 * 96 + 96 * 64) * 8**2,
    ]
    heads = [
        9 * 6 * 8 * 8 * 16**2 + 8 * 10,
        9 * 6 * 16 * 16 * 8**2 + 16 * 10,
        1024 * 256 + 256 * 256 + 256 * 10,
    ]
    assert sum(stages) == 27_951_104 and heads == [884_816, 884_896, 330_240]
    np.testing.assert_allclose(found.head_costs, 2e-6 * np.array(heads), rtol=1e-9)
    expected = 2e-6 * (np.cumsum(stages) + np.cumsum(heads))
    np.testing.assert_allclose(found.costs, expected, rtol=1e-9)


def test_the_width_scales_every_convolution():
    # Biases, and the first kernel, grow with the width; the other kernels with its
    # square.
    backbone = _build(head="linear", width=4)
    linear, square = 25 * 3 + 1 + 2 + 3 + 3 + 2, 25 * 2 + 9 * (6 + 9 + 6)
    stages = backbone.part_params(_shapes(backbone))["stages"]
    assert _size(stages) == linear * 4 + square * 4**2


# Shapes and exits.


def test_logits_have_their_shape_at_any_size():
    backbone = _build(7, head="linear")
    shapes = _shapes(backbone)
    for size in ((32, 32), (28, 28), (8, 8), (47, 33)):
        x = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
        logits, _ = jax.eval_shape(backbone.apply, shapes, x)
        assert logits.shape == (3, 3, 7) and logits.dtype == jnp.float32


@pytest.mark.parametrize(("side", "sides"), [(32, [16, 8, 4]), (64, [32, 16, 4])])
def test_the_gates_of_its_exits_read_the_maps(side, sides):
    backbone, x = _build(), jnp.zeros((2, side, side, 3))
    shapes = _shapes(backbone)
    carry = jax.eval_shape(backbone.stem, shapes, x)
    for k, channels in enumerate((32, 64, 64)):
        carry = jax.eval_shape(functools.partial(backbone.stage, k), shapes, carry)
        features = functools.partial(backbone.exit_features, k)
        seen = jax.eval_shape(features, shapes, carry)
        assert seen.shape == carry.shape == (2, sides[k], sides[k], channels)


def test_the_pool_says_for_which_images_it_is():
    assert _build().example().shape == (1, 32, 32, 3)
    assert _build(pool=7).example().shape == (1, 56, 56, 3)


def test_with_linear_heads_there_is_no_batch_norm():
    assert set(_shapes(_build(7, head="linear"))) == {"params"}
    assert "batch_stats" in _shapes(_build())


@functools.cache
def _thin():
    backbone = _build(5, exits=(1, 3, 5), width=2, hidden=8, head="linear")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 16, 16, 3), np.float32)
    # Positive weights: no ReLU is shut, so that every layer counts.
    variables = jax.tree.map(
        lambda leaf: np.abs(rng.standard_normal(leaf.shape, np.float32)) / 4,
        _shapes(backbone),
    )
    return backbone, variables, np.abs(x), jit(lambda v, x: backbone.apply(v, x)[0])


def test_an_exit_ignores_later_stages_and_heads():
    backbone, variables, x, apply = _thin()
    before = np.asarray(apply(variables, x))
    for k in range(backbone.num_exits - 1):
        later = range(k + 1, backbone.num_exits)
        parts = {f"{part}_{j}" for part in ("stages", "heads") for j in later}
        params = {
            name: jax.tree.map(lambda leaf: leaf + 0.3, tree) if name in parts else tree
            for name, tree in variables["params"].items()
        }
        after = np.asarray(apply({"params": params}, x))
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[k + 1 :] != before[k + 1 :]).any(axis=(1, 2)).all()


def test_training_drops_units_of_the_last_head_alone(key):
    backbone, variables, x, _ = _thin()

    @jit
    def train(key):
        return backbone.apply(variables, x, train=True, rngs={"dropout": key})

    one, state = train(key)
    other, _ = train(jax.random.fold_in(key, 1))
    np.testing.assert_array_equal(one[:-1], other[:-1])
    assert (one[-1] != other[-1]).any()
    assert state == {}


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"pool": 0}, "pool=0 must be at least 1"),
        ({"hidden": -1}, "hidden=-1 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be in \[0, 1\)"),
        ({"head": "cnv"}, "head='cnv' is unknown"),
        ({"reduction": 0}, "reduction=0 must be at least 1"),
        ({"depth": 8}, r"depth is no option of 'alexnet'; it has \['dropout', 'head'"),
        ({"exits": (9,)}, r"no exit can be at 9; .* counts from 0 to 8"),
        ({"exits": (4, 2)}, "do not increase"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        _build(**options)


def test_images_that_the_pools_would_use_up_are_refused(key):
    backbone = _build()
    message = "images of 12x7 pixels are too small for AlexNet's 3 .* at least 8x8"
    with pytest.raises(UserError, match=message):
        jax.eval_shape(backbone.init, key, jnp.zeros((1, 12, 7, 3)))


def test_weights_from_pytorch_are_refused():
    with pytest.raises(UserError, match="no import from PyTorch .*'alexnet'; .*bert"):
        from_torch.convert("alexnet", {"features.0.weight": np.zeros((32, 3, 5, 5))})
