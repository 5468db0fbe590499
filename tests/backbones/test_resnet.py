"""CIFAR ResNets: parameter counts, shortcuts, exits, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import residual, resnet
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _shapes(backbone, size: int = 8):
    x = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(backbone.init, jax.random.key(0), x)


def _num_params(name, **options) -> int:
    params = _shapes(backbones.build(name, **options))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _filled(shapes, value: float):
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), shapes)


def _draw(*shape) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_resnet56_3_has_the_published_parameters():
    assert _num_params("resnet56_3", num_classes=10) == 939_438


@pytest.mark.parametrize(
    ("depth", "count"),
    # 0.27, 0.46, 0.66, 0.85 and 1.7 M in He et al. (2016), table 6.
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_a_plain_cifar_resnet_has_the_published_parameters(depth, count):
    assert _num_params(f"resnet{depth}", num_classes=10, exits=()) == count


def test_a_named_depth_is_the_general_resnet():
    general = backbones.build("cifar_resnet", num_classes=10, depth=20)
    assert backbones.build("resnet20", num_classes=10).module == general.module


def test_projections_add_two_convolutions_with_batch_norm():
    options = {"num_classes": 10, "exits": ()}
    plain = _num_params("resnet20", **options)
    projected = _num_params("resnet20", shortcut="projection", **options)
    assert projected - plain == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)


def test_head_widths_follow_the_reduction():
    def head(reduction):
        options = {"depth": 8, "width": 8, "exits": (1,), "reduction": reduction}
        backbone = backbones.build("cifar_resnet", num_classes=10, **options)
        return _shapes(backbone)["params"]["heads_0"]

    assert head(1)["conv0"]["kernel"].shape == (3, 3, 8, 8)
    assert head(4)["conv0"]["kernel"].shape == (3, 3, 8, 2)
    assert head(4)["conv2"]["kernel"].shape == (3, 3, 2, 2)
    assert head(100)["linear"]["kernel"].shape == (1, 10)


def test_residual_heads_see_as_far_as_the_last():
    options = {"depth": 8, "width": 4, "exits": (0, 2), "head": "residual"}
    backbone = backbones.build("cifar_resnet", num_classes=10, **options)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())
    early, later, _ = (shapes["params"][f"heads_{k}"] for k in range(3))
    blocks = [f"block{i}" for i in range(4)]
    assert set(early) == {*blocks, "linear"}  # 32 pixels a side to 8
    assert set(later) == {*blocks[:2], "linear"}  # 16 to 8
    for head in (early, later):
        assert head["linear"]["kernel"].shape == (16, 10)  # as the network's own
    assert early["block0"]["conv1"]["kernel"].shape == (3, 3, 4, 8)
    logits, state = jax.eval_shape(
        functools.partial(backbone.apply, train=True), shapes, backbone.example()
    )
    assert logits.shape == (3, 1, 10)
    assert set(state["batch_stats"]["heads_0"]) == set(blocks)


# Shortcuts.


@pytest.mark.parametrize("size", [6, 7])
def test_identity_shortcut_takes_even_pixels_and_pads_both_sides(size, key):
    block = residual.BasicBlock(residual.BlockSpec(9, 2), "identity", jnp.float32)
    x = np.abs(_draw(2, size, size, 4))
    # With all parameters zero only the shortcut is left.
    variables = _filled(jax.eval_shape(block.init, key, x), 0.0)
    y = np.asarray(jit(block.apply)(variables, x))
    expected = np.zeros_like(y)
    expected[..., 2:6] = x[:, ::2, ::2]  # 9 - 4 zero channels: 2 before, 3 behind
    np.testing.assert_array_equal(y, expected)


def test_same_shapes_need_no_shortcut_layers(key):
    x = jnp.zeros((1, 4, 4, 8))
    for shortcut in resnet.SHORTCUTS:
        block = residual.BasicBlock(residual.BlockSpec(8, 1), shortcut, jnp.float32)
        names = set(jax.eval_shape(block.init, key, x)["params"])
        assert names == {"conv1", "bn1", "conv2", "bn2"}


def test_projection_shortcut_is_a_convolution_with_batch_norm(key):
    block = residual.BasicBlock(residual.BlockSpec(8, 2), "projection", jnp.float32)
    x = _draw(2, 6, 6, 4)
    shapes = jax.eval_shape(block.init, key, x)
    assert set(shapes["params"]["shortcut_bn"]) == {"scale", "bias"}
    assert set(shapes["params"]["shortcut_conv"]) == {"kernel"}
    variables = _filled(shapes, 0.0)
    kernel = _draw(1, 1, 4, 8)
    variables["params"]["shortcut_conv"]["kernel"] = kernel
    variables["params"]["shortcut_bn"] = {"scale": np.full(8, 2.0), "bias": np.ones(8)}
    variables["batch_stats"]["shortcut_bn"]["var"] = np.full(8, 4.0)
    y = jit(block.apply)(variables, x)
    expected = np.maximum(x[:, ::2, ::2] @ kernel[0, 0] + 1, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution(key):
    block = residual.Bottleneck(residual.BlockSpec(2, 2), jnp.float32)
    x = jnp.zeros((1, 6, 6, 4))
    shapes = jax.eval_shape(block.init, key, x)
    apply = functools.partial(block.apply, capture_intermediates=True)
    seen = jax.eval_shape(apply, shapes, x)[1]["intermediates"]
    sides = {name: seen[name]["__call__"][0].shape[1] for name in shapes["params"]}
    convs = {name: side for name, side in sides.items() if "conv" in name}
    assert convs == {"conv1": 6, "conv2": 3, "conv3": 3, "shortcut_conv": 3}
    assert jax.eval_shape(block.apply, shapes, x).shape == (1, 3, 3, 8)


# Exits.


@pytest.mark.parametrize(
    ("exits", "blocks"),
    [((), [9]), ((0,), [0, 9]), ((8,), [8, 1]), ((0, 1, 5), [0, 1, 4, 4])],
)
def test_exits_may_lie_at_any_block(exits, blocks):
    backbone = backbones.build("cifar_resnet", num_classes=4, depth=20, exits=exits)
    assert backbone.num_exits == len(exits) + 1
    shapes = _shapes(backbone)
    stages = backbone.part_params(shapes)["stages"]
    assert [len(stage) for stage in stages] == blocks
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    logits, _ = jax.eval_shape(backbone.apply, shapes, x)
    assert logits.shape == (len(exits) + 1, 2, 4)


def test_an_exit_at_0_reads_the_stem():
    options = {"depth": 8, "width": 4, "exits": (0,)}
    backbone = backbones.build("cifar_resnet", num_classes=4, **options)
    carry = _draw(2, 8, 8, 4)
    variables = _filled(_shapes(backbone), 0.5)
    np.testing.assert_array_equal(backbone.stage(0, variables, carry), carry)
    head = functools.partial(backbone.head, 0)
    assert jax.eval_shape(head, variables, carry).shape == (2, 4)


def test_default_exits_are_the_ends_of_the_first_two_stages():
    backbone = backbones.build("cifar_resnet", num_classes=4, depth=26)
    stages = backbone.part_params(_shapes(backbone))["stages"]
    assert [len(stage) for stage in stages] == [4, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet57"}, r"model\.name='resnet57' is unknown; choose from \["),
        ({"name": "resnet56-3"}, "Did you mean 'resnet56_3'"),
        ({"num_classes": 1}, "num_classes=1 must be at least 2"),
        ({"exits": (2, 1)}, r"model\.exits=\(2, 1\) do not increase; .* 0 to 8"),
        ({"exits": (1, 1)}, r"model\.exits=\(1, 1\) do not increase"),
        ({"exits": (1, 9)}, r"no exit can be at 9; .* counts from 0 to 8"),
        ({"exits": (-1,)}, "no exit can be at -1"),
        ({"depth": 21}, r"model\.options\.depth=21 must be 6n \+ 2"),
        ({"depth": 2}, "depth=2 must be"),
        ({"depth": None}, r"model\.options\.depth must be given for 'cifar_resnet'"),
        ({"widht": 8}, r"model\.options\.widht .*Did you mean 'width'"),
        ({"banana": 8}, r"model\.options\.banana is no option .*'depth', 'head'"),
        ({"name": "resnet20"}, r"options\.depth is no option of 'resnet20'"),
        (
            {"head": "cnv"},
            r"head='cnv' is unknown; choose from \('conv', 'linear', .*'residual'\)",
        ),
        ({"shortcut": "none"}, r"shortcut='none' is unknown; .*'projection'"),
        ({"reduction": 0}, r"reduction=0 must be at least 1"),
        ({"width": 0}, "width=0 must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    given = {"name": "cifar_resnet", "num_classes": 10, "depth": 20, **options}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(UserError, match=message):
        backbones.build(**given)


def test_a_shorter_name_has_no_hint_and_all_choices():
    with pytest.raises(UserError) as caught:
        backbones.build("vgg", num_classes=10)
    assert "Did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in backbones.BACKBONES)
