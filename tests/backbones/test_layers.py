"""The layers that CPUs get compute what Linen's do, and XLA recomputes no network."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import layers
from eenet_jax.backbones.residual import BlockSpec, Bottleneck
from eenet_jax.backbones.resnet import Segment
from eenet_jax.costs.flops import count_macs

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}
BFLOAT16 = {"rtol": 2e-2, "atol": 2e-2}
SHAPES = [  # C, D, kernel, stride
    (3, 8, 3, 1),
    (8, 3, 3, 1),
    (4, 4, 5, 1),
    (6, 5, 1, 1),
    (6, 5, 1, 2),
    (5, 6, 3, 2),
    (3, 4, 7, 2),
]


@pytest.fixture
def linen(monkeypatch):
    """A function that builds a layer as accelerators get it."""

    def build(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "tpu")
            return function(*args, **options)

    return build


def _drawn(shapes, seed: int = 0):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(1 + 0.5 * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, shapes)


def _check_same(ours, theirs, variables, x, tolerance) -> None:
    """Checks outputs, gradients of a weighted sum of them, and new statistics."""
    out = jax.eval_shape(lambda x: ours.apply(variables, x, mutable=True)[0], x)
    rng = np.random.default_rng(2)
    weights = jnp.asarray(rng.standard_normal(out.shape), jnp.float32)

    def loss(params, x, layer):
        y, state = layer.apply({**variables, "params": params}, x, mutable=True)
        return jnp.sum(y.astype(jnp.float32) * weights), (y, state.get("batch_stats"))

    def run(params, x):
        gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return [gradient(params, x, layer) for layer in (ours, theirs)]

    actual, expected = jit(run)(variables["params"], x)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        # Relative to the largest: sums over the batch cancel.
        scale = max(1, np.abs(b).max())
        np.testing.assert_allclose(a / scale, b / scale, **tolerance)


def _linens(features, kernel, stride, use_bias=False):
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        padding=kernel // 2,
        use_bias=use_bias,
        kernel_init=layers.uniform_fan_in,
        bias_init=lambda *args: 0.3 * nn.initializers.ones(*args),
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_convolution_is_linens(shape, key):
    channels, features, kernel, stride = shape
    ours = layers.conv(features, kernel, stride=stride, dtype=jnp.float32, name=None)
    theirs = _linens(features, kernel, stride)
    x = np.random.default_rng(1).standard_normal((4, 10, 9, channels), np.float32)
    shapes = jax.eval_shape(ours.init, key, x)
    assert shapes == jax.eval_shape(theirs.init, key, x)
    _check_same(ours, theirs, _drawn(shapes), jnp.asarray(x), FLOAT32)
    assert count_macs(ours.apply, shapes, x) == count_macs(theirs.apply, shapes, x)


def test_a_biased_convolution_is_linens(key):
    ours = layers.biased_conv(5, 3, stride=2, dtype=jnp.float32, name=None)
    x = np.random.default_rng(1).standard_normal((4, 10, 9, 3), np.float32)
    shapes = jax.eval_shape(ours.init, key, x)
    theirs = _linens(5, 3, 2, use_bias=True)
    _check_same(ours, theirs, _drawn(shapes), jnp.asarray(x), FLOAT32)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [(2, 2), (1, 3)])
def test_a_convolution_of_a_small_map_is_linens(side, stride, key):
    ours = layers.conv(5, 3, stride=stride, dtype=jnp.float32, name=None)
    theirs = _linens(5, 3, stride)
    x = np.random.default_rng(1).standard_normal((4, *side, 3), np.float32)
    shapes = jax.eval_shape(ours.init, key, x)
    _check_same(ours, theirs, _drawn(shapes), jnp.asarray(x), FLOAT32)
    assert count_macs(ours.apply, shapes, x) == count_macs(theirs.apply, shapes, x)
    text = str(jax.make_jaxpr(ours.apply)(_drawn(shapes), x))
    assert "conv_general_dilated" not in text


def test_a_convolution_on_accelerators_is_linens(linen, key):
    ours = layers.conv(4, 3, dtype=jnp.float32, name=None)
    x = np.random.default_rng(1).standard_normal((4, 10, 9, 3), np.float32)
    variables = _drawn(jax.eval_shape(ours.init, key, x))
    text = str(linen(jax.make_jaxpr(lambda v, x: ours.apply(v, x)), variables, x))
    assert "conv_general_dilated" in text and "custom_vjp" not in text
    np.testing.assert_allclose(
        linen(ours.apply, variables, x), _linens(4, 3, 1).apply(variables, x), rtol=1e-6
    )


def test_a_convolution_starts_as_linens(key):
    x = jnp.zeros((1, 4, 4, 2))
    ours = layers.biased_conv(300, 1, dtype=jnp.float32, name=None).init(key, x)
    bias, kernel = ours["params"]["bias"], ours["params"]["kernel"]
    np.testing.assert_array_equal(
        kernel, _linens(300, 1, 1).init(key, x)["params"]["kernel"]
    )
    for values in (bias, kernel):  # 1 / sqrt(2), the fan-in
        assert 0.6 < np.abs(values).max() <= 2**-0.5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("shape", [(4, 6, 5, 3), (16, 3)], ids=["maps", "rows"])
def test_batch_norm_is_linens(shape, dtype, linen, key):
    ours = layers.batch_norm(True, dtype=dtype, name=None)
    theirs = linen(layers.batch_norm, True, dtype=dtype, name=None)
    assert isinstance(theirs, nn.BatchNorm)
    assert not isinstance(ours, nn.BatchNorm)
    rng = np.random.default_rng(1)
    x = jnp.asarray(2 + 3 * rng.standard_normal(shape), dtype)
    shapes = jax.eval_shape(ours.init, key, x)
    assert shapes == jax.eval_shape(theirs.init, key, x)
    tolerance = FLOAT32 if dtype == jnp.float32 else BFLOAT16
    _check_same(ours, theirs, _drawn(shapes), x, tolerance)


def test_initialising_in_training_mode_leaves_the_statistics(key):
    layer = layers.batch_norm(True, dtype=jnp.float32, name=None)
    stats = layer.init(key, jnp.full((4, 3), 7.0))["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)


def test_relu_is_jaxs_also_at_zero_and_nan():
    x = jnp.array([-jnp.inf, -2.0, 0.0, 3.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(layers.relu(x), jax.nn.relu(x))
    np.testing.assert_array_equal(
        jax.vmap(jax.grad(layers.relu))(x), jax.vmap(jax.grad(jax.nn.relu))(x)
    )
    assert layers.relu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["resnet56_3", "densenet_bc_40_12"])
@pytest.mark.slow
def test_a_networks_variables_and_macs_are_linens(name, linen, key):
    backbone = backbones.build(name, num_classes=10)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def measure():  # through new functions: JAX keeps what it has traced
        shapes = jax.eval_shape(lambda key, x: backbone.init(key, x), key, x)
        macs = count_macs(lambda v, x: backbone.apply(v, x)[0], shapes, x)
        text = str(jax.make_jaxpr(lambda v, x: backbone.apply(v, x)[0])(shapes, x))
        return (shapes, macs), text.count(" conv_general_dilated[")

    (ours, fewer), (theirs, convolutions) = measure(), linen(measure)
    assert ours == theirs
    assert fewer < convolutions


def test_no_block_is_computed_again_in_a_later_one(key):
    # With nn.relu the last blocks' weight gradients each read all blocks before them.
    blocks = tuple(Bottleneck(BlockSpec(4, 1), jnp.float32) for _ in range(8))
    network = Segment(blocks)
    x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)
    variables = jax.eval_shape(network.init, key, x)

    def loss(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        y, _ = network.apply(variables, x, True, mutable=["batch_stats"])
        return jnp.sum(y * y)

    gradient = jit(jax.grad(loss))
    args = variables["params"], variables["batch_stats"], x
    text = gradient.lower(*args).compile().as_text()
    maps = re.findall(r"^%fused_computation\S* \((.*?)\) ->", text, re.MULTILINE)
    read = [len(re.findall(r"f32\[(?:2,8,8,16|128,16)\]", line)) for line in maps]
    assert max(read) <= 4
