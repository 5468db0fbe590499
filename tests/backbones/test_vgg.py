"""VGGs with exits: published sizes, arithmetic and logits, pooling, dropout."""

import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import vgg
from eenet_jax.backbones.torch_names.vgg import TORCHVISION
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = {"pool": 1, "hidden": 512}


def _build(depth: int, num_classes: int = 10, **options):
    return backbones.build(f"vgg{depth}_bn", num_classes=num_classes, **options)


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _num_params(backbone) -> int:
    leaves = jax.tree.leaves(_shapes(backbone)["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _backbone_mmacs(backbone) -> np.ndarray:
    """Returns millions of multiply-adds in front of each head, and with the last."""
    found = exit_mflops(backbone, _shapes(backbone), backbone.example())
    alone = found.costs - np.cumsum(found.head_costs)
    return np.append(alone, alone[-1] + found.head_costs[-1]) / 2


def _drawn(shapes, rng):
    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return noise * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))
        lively = path[-1].key in ("scale", "var")
        return np.exp(0.2 * noise) if lively else 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


# Sizes and arithmetic.


@pytest.mark.parametrize(
    ("depth", "classes", "options", "count"),
    [
        (11, 1000, {}, 132_868_840),  # torchvision
        (19, 1000, {}, 143_678_248),
        (11, 10, {"pool": 1}, 28_149_514),  # LEENet, CIFAR-10
        (11, 10, SMALL, 9_756_426),  # chenyaofo: 9.76 M and 20.57 M
        (19, 10, SMALL, 20_565_834),
    ],
)
def test_it_has_the_published_parameters(depth, classes, options, count):
    assert _num_params(_build(depth, classes, exits=(), **options)) == count


def test_vgg11_has_the_published_arithmetic():
    backbone = _build(11, exits=(4, 7, 10), pool=1)
    expected = [20.644, 77.267, 133.890, 152.764, 171.680]  # BACKBONES 2.3
    np.testing.assert_allclose(_backbone_mmacs(backbone), expected, atol=6e-4)


def test_vgg19_has_the_published_arithmetic():
    found = _backbone_mmacs(_build(19, exits=(1, 3, 6, 11, 16, 17), **SMALL))[:-1]
    # BACKBONES 3.2: conv 1, pools 1 to 4, conv 13, pool 5.
    expected = [1.769, 39.518, 96.141, 228.262, 360.382, 369.820, 398.131]
    np.testing.assert_allclose(found, expected, atol=6e-4)


def test_pooling_to_bins_costs_no_multiply_adds():
    large = _build(11, exits=(), pool=3)
    costs = exit_mflops(large, _shapes(large), jnp.zeros((1, 64, 64, 3)))
    linear = 9 * 512 * 4096 + 4096 * 4096 + 4096 * 10
    assert costs.head_costs[0] == pytest.approx(2e-6 * linear)


# Exits and shapes.


@pytest.mark.parametrize(
    ("depth", "blocks"), [(11, [2, 2, 3, 3, 4]), (19, [3, 3, 5, 5, 6])]
)
def test_default_exits_follow_every_max_pool_but_the_last(depth, blocks):
    module = _build(depth, **SMALL).module
    assert [len(stage.blocks) for stage in module.stages] == blocks
    for stage in module.stages[:-1]:
        pools = [isinstance(block, vgg.MaxPool) for block in stage.blocks]
        assert pools == [False] * (len(pools) - 1) + [True]
    *_, pool, average = module.stages[-1].blocks
    assert isinstance(pool, vgg.MaxPool) and isinstance(average, vgg.AveragePool)


@pytest.mark.parametrize("pool", [1, 2, 7])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (100, 330)])
def test_logits_have_their_shape_at_any_size(size, pool):
    backbone = _build(11, 7, pool=pool, hidden=16, head="linear")
    shapes = _shapes(backbone)
    x = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(backbone.apply, shapes, x)
    assert logits.shape == (5, 3, 7) and logits.dtype == jnp.float32


def test_the_pool_says_for_which_images_it_is():
    assert _build(11).example().shape == (1, 224, 224, 3)
    assert _build(11, **SMALL).example().shape == (1, 32, 32, 3)


@functools.cache
def _thin():
    with mock.patch.object(vgg, "WIDTHS", (4, 4, 8, 8, 8)):
        backbone = _build(11, 5, exits=(1, 8), hidden=8, pool=1)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, 32, 32, 3), np.float32)
    variables = _drawn(_shapes(backbone), rng)
    return backbone, variables, x, jit(lambda v, x: backbone.apply(v, x)[0])


def test_an_exit_ignores_later_stages_and_heads():
    backbone, variables, x, apply = _thin()
    before = np.asarray(apply(variables, x))
    for k in range(backbone.num_exits):
        later = range(k + 1, backbone.num_exits)
        parts = {f"{part}_{j}" for part in ("stages", "heads") for j in later}
        params = {
            name: jax.tree.map(lambda leaf: leaf + 0.3, tree) if name in parts else tree
            for name, tree in variables["params"].items()
        }
        after = np.asarray(apply({**variables, "params": params}, x))
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[k + 1 :] != before[k + 1 :]).any(axis=(1, 2)).all()


@pytest.mark.slow
def test_training_mode_drops_units_of_the_last_head_and_updates_statistics(key):
    backbone, variables, x, apply = _thin()
    train = jit(functools.partial(backbone.apply, train=True))
    one, state = train(variables, x, rngs={"dropout": key})
    same, _ = train(variables, x, rngs={"dropout": key})
    other, _ = train(variables, x, rngs={"dropout": jax.random.fold_in(key, 1)})
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one[:-1], other[:-1])
    assert (one[-1] != other[-1]).any()
    changed = jax.tree.map(
        lambda a, b: (np.asarray(a) != b).any(),
        state["batch_stats"],
        variables["batch_stats"],
    )
    assert all(jax.tree.leaves(changed))


def test_an_initial_bias_is_within_the_fan_in_bound(key):
    block = vgg.ConvBlock(64, jnp.float32)
    params = jit(block.init)(key, jnp.zeros((1, 4, 4, 8)))["params"]["conv"]
    bound = (9 * 8) ** -0.5
    for leaf in (params["kernel"], params["bias"]):
        assert 0.8 * bound < jnp.abs(leaf).max() <= bound


# Against PyTorch.


def _torch_bins(x: np.ndarray, size: int) -> np.ndarray:
    """Averages over bins as torch.nn.AdaptiveAvgPool2d documents them."""
    out = np.zeros((len(x), size, size, x.shape[-1]))

    def edges(i, length):
        return slice(math.floor(i * length / size), math.ceil((i + 1) * length / size))

    for i in range(size):
        for j in range(size):
            rows, columns = edges(i, x.shape[1]), edges(j, x.shape[2])
            out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


@pytest.mark.parametrize("bins", [1, 3, 7])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (10, 10), (2, 10)])
def test_adaptive_pooling_takes_torchs_bins(shape, bins):
    x = np.random.default_rng(0).standard_normal((2, *shape, 3), np.float32)
    y = jit(functools.partial(vgg.adaptive_avg_pool, size=bins))(x)
    np.testing.assert_allclose(y, _torch_bins(x, bins), rtol=1e-4, atol=1e-6)
    if shape == (bins, bins):
        np.testing.assert_array_equal(y, x)


def test_the_classifier_flattens_channels_first(key):
    head = vgg.Classifier(num_classes=2, hidden=12, dropout=0.5)
    x = jnp.arange(12.0).reshape(1, 2, 2, 3)
    variables = jax.eval_shape(head.init, key, x)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), variables)
    for name in ("linear0", "linear1"):
        np.fill_diagonal(variables["params"][name]["kernel"], 1.0)
    variables["params"]["linear2"]["kernel"][1, 0] = 1.0  # channel 0 of row 0, column 1
    variables["params"]["linear2"]["kernel"][6, 1] = 1.0  # channel 1 of row 1, column 0
    np.testing.assert_array_equal(head.apply(variables, x), [[3.0, 7.0]])


def test_names_are_torchvisions():
    naming = TORCHVISION.naming(_build(19, exits=(2, 11)).module)
    last_conv = ("stages_2", "blocks_8")  # block 19: after 15 convolutions, 4 pools
    assert naming((*last_conv, "conv", "bias")) == "features.49.bias"
    assert naming((*last_conv, "bn", "var")) == "features.50.running_var"
    assert naming(("stages_1", "blocks_1", "conv", "kernel")) == "features.7.weight"
    assert naming(("heads_2", "linear1", "kernel")) == "classifier.3.weight"
    assert naming(("heads_1", "linear", "bias")) is None


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "pool=0 must be at least 1"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be in \[0, 1\)"),
        ({"head": "cnv"}, "head='cnv' is unknown"),
        ({"exits": (14,)}, r"no exit can be at 14; .* counts from 0 to 13"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        _build(11, **options)


def test_an_unknown_depth_is_refused():
    with pytest.raises(UserError, match=r"depth=12 is unknown; .*\(11, 19\)"):
        vgg.vgg_bn(10, depth=12)


def test_images_that_the_pools_would_use_up_are_refused(key):
    backbone = _build(11, **SMALL)
    with pytest.raises(UserError, match="images of 40x31 pixels .* at least 32x32"):
        jax.eval_shape(backbone.init, key, jnp.zeros((1, 40, 31, 3)))
