"""Predictive Exit's networks: published sizes and arithmetic; shared heads."""

import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import predictive
from eenet_jax.costs.flops import exit_mflops, exit_mparams
from eenet_jax.errors import UserError
from eenet_jax.training import objectives

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VGG, STL10, RESNET = "predictive_vgg19", "predictive_vgg19_stl10", "predictive_resnet34"
PARAMS = {VGG: 20_119_332, STL10: 20_328_292, RESNET: 21_593_266}
HEADS = {VGG: 78_810, STL10: 246_810, RESNET: 311_144}
# Millions of multiply-adds of the heads, and of the network in front of them.
VGG_HEADS = [4.211, 4.211, 1.049, 2.114, 2.114, 0.525, *[1.066] * 4, 0.263]
VGG_HEADS += [*[0.541] * 4, *[0.132] * 5, 0.005]
VGG_MMACS = [1.769, 39.518, 39.518, 58.393, 96.141, 96.141, 115.016, 152.764]
VGG_MMACS += [190.513, 228.262, 228.262, 247.136, 284.885, 322.634, 360.382, 360.382]
VGG_MMACS += [369.820, 379.257, 388.694, 398.131, 398.131]
RESNET_HEADS = [*[4.211] * 6, *[2.114] * 8, *[1.066] * 12, *[0.541] * 6, 0.005]
RESNET_MMACS = [
    start + 37.749 * i
    for start, count in ((39.518, 6), (249.233, 8), (534.446, 12), (970.654, 6))
    for i in range(count)
]
HEAD_MMACS = {VGG: VGG_HEADS, RESNET: RESNET_HEADS}
MMACS = {VGG: VGG_MMACS, RESNET: [*RESNET_MMACS, 1159.397]}
SMALL = {"width": 4, "codewords": 8}


SLOW = pytest.mark.slow


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# Sizes and arithmetic.


@pytest.mark.parametrize("name", [VGG, RESNET, pytest.param(STL10, marks=SLOW)])
def test_it_has_the_published_parameters(name):
    backbone = backbones.build(name, num_classes=10)
    shapes = _shapes(backbone)
    assert _size(shapes["params"]) == PARAMS[name]
    assert exit_mparams(backbone, shapes).costs[-1] == pytest.approx(PARAMS[name] / 1e6)
    assert _size(backbone.part_params(shapes)["heads"][:-1]) == HEADS[name]


def _mmacs(name, exits, **options):
    """Counts multiply-adds in front of heads, and of heads, in millions."""
    backbone = backbones.build(name, num_classes=10, exits=exits, **options)
    found = exit_mflops(backbone, _shapes(backbone), backbone.example())
    return (found.costs - np.cumsum(found.head_costs)) / 2, found.head_costs / 2


@pytest.mark.parametrize(
    ("name", "exits"),
    [
        (VGG, (3, 6, 11, 13, 20)),
        (RESNET, (1, 7, 16, 32)),
        pytest.param(VGG, range(1, 21), marks=SLOW),
        pytest.param(RESNET, (2, 6, 8, 14, 15, 26, 27), marks=SLOW),
    ],
)
def test_it_has_the_published_arithmetic(name, exits):
    before, heads = _mmacs(name, exits)
    places = [location - 1 for location in (*exits, len(MMACS[name]))]
    np.testing.assert_allclose(before, np.array(MMACS[name])[places], atol=6e-3)
    np.testing.assert_allclose(heads, np.array(HEAD_MMACS[name])[places], atol=6e-4)


@pytest.mark.slow
def test_images_of_stl10_cost_nine_times_as_much():
    before, _ = _mmacs(STL10, (4,))
    np.testing.assert_allclose(before, 9 * np.array(VGG_MMACS)[[3, -1]], atol=6e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMS)
def test_width_exits_and_own_heads_can_be_chosen(name):
    options = {"width": 8, "codewords": 16, "exits": (3, 8), "share_heads": False}
    backbone = backbones.build(name, num_classes=7, **options)
    shapes = _shapes(backbone)
    assert backbone.num_exits == 3 and not backbone.shares_heads
    side = 96 if name == STL10 else 32
    assert backbone.example().shape == (1, side, side, 3)
    logits, _ = jax.eval_shape(backbone.apply, shapes, backbone.example(2))
    assert logits.shape == (3, 2, 7) and logits.dtype == jnp.float32
    first, second, _ = backbone.part_params(shapes)["heads"]
    assert {"pooling", "linear"} <= first.keys() & second.keys()
    assert first["pooling"]["codebook"]["kernel"].shape == (1, 1, 8, 16)
    assert _size(shapes["params"]) < PARAMS[name] / 40


# One set of parameters for several exits.


def _drawn(shapes, rng):
    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return noise * np.float32(math.sqrt(2 / math.prod(leaf.shape[:-1])))
        lively = path[-1].key in ("scale", "var", "a", "n1", "n2")
        return np.exp(0.2 * noise) if lively else 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _narrow(name, exits):
    lengths = {"VGG_LENGTHS": (1, 1, 1, 1, 1), "RESNET_LENGTHS": (1, 1, 1, 1)}
    with mock.patch.multiple(predictive, **lengths):
        backbone = backbones.build(name, num_classes=3, exits=exits, **SMALL)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((4, 32, 32, 3), np.float32)
    variables = _drawn(_shapes(backbone), rng)

    def run(variables, x):
        seen = backbone.head_inputs(variables, x)
        alone = [backbone.head(k, variables, carry) for k, carry in enumerate(seen)]
        trained, _ = backbone.train_heads(variables, seen[:-1])
        logits, _ = backbone.apply(variables, x)
        return logits, jnp.stack(alone), trained, seen

    return backbone, variables, x, jit(run)


# Behind both halves of a block and the next half; behind conv 1 and 2 and pool 2.
NARROW = [(RESNET, (1, 2, 3)), pytest.param(VGG, (1, 3, 4), marks=SLOW)]


@pytest.mark.parametrize(("name", "exits"), NARROW)
def test_heads_run_on_what_they_read(name, exits):
    _, variables, x, run = _narrow(name, exits)
    logits, alone, trained, seen = run(variables, x)
    np.testing.assert_allclose(alone, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(trained, logits[:-1], rtol=1e-4, atol=1e-4)
    assert all(isinstance(carry, jax.Array) for carry in seen)


@pytest.mark.parametrize(("name", "exits"), NARROW)
def test_an_exit_ignores_later_stages_and_heads(name, exits):
    backbone, variables, x, run = _narrow(name, exits)
    before = np.asarray(run(variables, x)[0])
    for k in range(backbone.num_exits - 1):
        later = range(k + 1, backbone.num_exits)
        parts = {f"{part}_{j}" for part in ("stages", "heads") for j in later}
        params = {
            part: jax.tree.map(lambda leaf: leaf + 0.3, tree) if part in parts else tree
            for part, tree in variables["params"].items()
        }
        after = np.asarray(run({**variables, "params": params}, x)[0])
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[-1] != before[-1]).any()


def test_a_shared_part_serves_all_its_exits():
    backbone, variables, x, run = _narrow(*NARROW[0])
    heads = backbone.part_params(variables)["heads"]
    assert [set(head) for head in heads] == [
        {"pooling", "hidden", "linear"},
        set(),  # of the same block
        {"pooling", "hidden", "linear"},  # of the next layer
        {"linear"},
    ]
    before = np.asarray(run(variables, x)[0])
    linear = {**heads[0]["linear"], "bias": heads[0]["linear"]["bias"] + 1}
    params = {**variables["params"], "heads_0": {**heads[0], "linear": linear}}
    after = np.asarray(run({**variables, "params": params}, x)[0])
    difference = np.broadcast_to([[[1.0]], [[1.0]], [[0.0]], [[0.0]]], after.shape)
    np.testing.assert_allclose(after - before, difference, atol=1e-4)


def test_shared_heads_have_no_best_of_their_own():
    train = {"objective": "exits", "keep_last_head": True, "patience": 2}
    config = ml_collections.ConfigDict({"train": train})
    shared = backbones.build(VGG, num_classes=3, exits=(2, 3), **SMALL)
    with pytest.raises(UserError, match="patience=2 .* set train.patience=0 or model"):
        objectives.build(config, shared)
    own = backbones.build(VGG, num_classes=3, exits=(2, 3), share_heads=False, **SMALL)
    assert objectives.build(config, own).heads == 2


# Refusals.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (VGG, {"exits": (0,)}, "no exit can be at 0; .* layer counts from 1 to 20"),
        (RESNET, {"exits": (33,)}, "no exit can be at 33; .* from 1 to 32"),
        (VGG, {"width": 0}, "width=0 must be at least 1"),
        (RESNET, {"codewords": 0}, "codewords=0 must be at least 1"),
        (RESNET, {"pool": 0}, "pool=0 must be at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        backbones.build(name, num_classes=10, **options)
