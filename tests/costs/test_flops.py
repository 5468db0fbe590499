"""Multiply-adds and parameters per exit, by hand and against published counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from eenet_jax import backbones, costs
from eenet_jax.costs.flops import count_macs


def _array(*shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _conv(strides=(1, 1), **options):
    layout = ("NHWC", "HWIO", "NHWC")

    def run(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=layout, **options
        )

    return run


SQUARE = _array(4, 4)


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (_conv(), [(1, 8, 8, 3), (3, 3, 3, 16)], 8 * 8 * 16 * 27),
        (_conv((2, 2)), [(1, 8, 8, 3), (3, 3, 3, 16)], 4 * 4 * 16 * 27),
        (_conv(), [(5, 8, 8, 3), (1, 1, 3, 2)], 5 * 8 * 8 * 2 * 3),
        (
            _conv(feature_group_count=4),
            [(1, 8, 8, 8), (3, 3, 2, 16)],
            8 * 8 * 16 * 9 * 2,
        ),
        (
            _conv(batch_group_count=2),
            [(4, 8, 8, 3), (3, 3, 3, 6)],
            2 * 8 * 8 * 6 * 27,
        ),
        (jnp.matmul, [(2, 3), (3, 4)], 2 * 3 * 4),
        (jnp.matmul, [(5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4),
        (jnp.dot, [(7,), (7,)], 7),
        (
            lambda x, y: jnp.einsum("abcd,cdae->abe", x, y),
            [(2, 3, 4, 5), (4, 5, 2, 6)],
            2 * 3 * 6 * 4 * 5,
        ),
    ],
)
def test_convolutions_and_products_by_hand(function, shapes, macs):
    assert count_macs(function, *(_array(*shape) for shape in shapes)) == macs


def test_a_transposed_product_counts_the_same():
    assert count_macs(lambda x, y: x.T @ y.T, _array(3, 2), _array(4, 3)) == 24


def test_elementwise_work_and_reductions_are_free():
    assert count_macs(lambda x: jax.nn.softmax(x * x + 1).sum(), SQUARE) == 0


@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, jax.custom_jvp, jax.custom_vjp]
)
def test_wrapped_functions_are_looked_into(wrap):
    inner = wrap(lambda x: x @ x)
    if wrap is jax.custom_vjp:
        inner.defvjp(lambda x: (x @ x, x), lambda x, g: (g,))
    elif wrap is jax.custom_jvp:
        inner.defjvp(lambda x, t: (x[0], t[0]))
    assert count_macs(lambda x: inner(jax.nn.relu(x)), SQUARE) == 64


def test_vmap_counts_every_row():
    assert count_macs(jax.vmap(lambda x: x @ x), _array(3, 4, 4)) == 3 * 64


def test_a_scan_counts_its_body_as_often_as_it_runs():
    def nested(x):
        def body(carry, _):
            carry = lax.fori_loop(0, 3, lambda i, c: c @ x, carry)
            return carry @ x, None

        return lax.scan(body, x, length=7)[0]

    assert count_macs(nested, SQUARE) == 7 * (3 + 1) * 64


def test_a_condition_counts_its_dearest_branch():
    def cheap(x):
        return x @ x

    def dear(x):
        return x @ x @ x

    def both(x):
        x = lax.cond(x[0, 0] > 0, dear, cheap, x)
        return lax.switch(x[0, 0].astype(jnp.int32), [jnp.sin, dear, cheap], x)

    assert count_macs(both, SQUARE) == 4 * 64


def test_a_while_loop_with_products_is_refused():
    def loop(step):
        return lambda x: lax.while_loop(lambda c: c.sum() < 9, step, x)

    with pytest.raises(ValueError, match="while loop: its length is not known"):
        count_macs(loop(lambda c: c @ c), SQUARE)
    assert count_macs(loop(lambda c: 2 * c), SQUARE) == 0


@pytest.fixture(scope="module")
def resnet56_3():
    backbone = backbones.build("resnet56_3", num_classes=10)
    x = _array(1, 32, 32, 3)
    return backbone, jax.eval_shape(backbone.init, jax.random.key(0), x), x


def test_resnet56_3_has_the_published_multiply_adds(resnet56_3):
    result = costs.exit_mflops(*resnet56_3)
    assert result.unit == "mflops"
    macs, heads = result.costs / 2, result.head_costs / 2
    np.testing.assert_allclose(macs, [54.968, 112.378, 155.635], rtol=0, atol=6e-4)
    np.testing.assert_allclose(heads, [14.156, 14.156, 2.56e-3], rtol=0, atol=6e-4)
    backbone_alone = macs - np.cumsum(heads)
    expected = [40.813, 84.066, 127.323 - 2.56e-3]
    np.testing.assert_allclose(backbone_alone, expected, rtol=0, atol=1.2e-3)


def test_resnet56_3_has_the_published_parameters_up_to_each_exit(resnet56_3):
    backbone, shapes, _ = resnet56_3
    result = costs.exit_mparams(backbone, shapes)
    assert result.unit == "mparams"
    assert np.round(result.costs * 1e6).tolist() == [55_834, 278_180, 939_438]
    heads = np.round(result.head_costs * 1e6).tolist()
    assert heads[2] == 2570 and sum(heads[:2]) == 69_908


@pytest.mark.parametrize("count", ["mflops", "mparams"])
def test_costs_are_of_exits_and_grow(count, key):
    options = {"depth": 14, "width": 4, "exits": (0, 1, 3), "head": "linear"}
    backbone = backbones.build("cifar_resnet", num_classes=3, **options)
    x = _array(1, 8, 8, 3)
    shapes = jax.eval_shape(backbone.init, key, x)
    if count == "mflops":
        result = costs.exit_mflops(backbone, shapes, x)
        # The first exit: the stem's 3x3 convolution and a linear layer.
        first = 2e-6 * (8 * 8 * 4 * 27 + 4 * 3)
    else:
        result = costs.exit_mparams(backbone, shapes)
        first = 1e-6 * (27 * 4 + 2 * 4 + 4 * 3 + 3)
    assert result.costs.shape == result.head_costs.shape == (4,)
    assert result.costs.dtype == np.float64
    assert (np.diff(result.costs) > 0).all()
    np.testing.assert_allclose(result.costs[0], first, rtol=1e-9)


def test_multiply_adds_do_not_depend_on_the_compute_type(key):
    x, found = _array(1, 8, 8, 3), []
    for dtype in ("float32", "bfloat16"):
        options = {"depth": 8, "width": 4, "dtype": dtype}
        backbone = backbones.build("cifar_resnet", num_classes=3, **options)
        shapes = jax.eval_shape(backbone.init, key, x)
        found.append(costs.exit_mflops(backbone, shapes, x).costs.tolist())
    assert found[0] == found[1]
