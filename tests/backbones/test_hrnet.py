"""HRNet with exits: published sizes and logits, the staged contract, any image size."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hrnet_cases import (
    GOLDEN,
    assert_golden,
    golden_tensors,
    images,
    jit,
    lively,
    shapes_of,
    small,
    tiny,
)

from eenet_jax import backbones, costs
from eenet_jax.backbones import cpu_layers, from_torch, hrnet_heads
from eenet_jax.errors import UserError


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@functools.cache
def _published(name: str, heads: str):
    backbone = backbones.build(name, num_classes=19, heads=heads)
    return backbone, shapes_of(backbone)


@functools.cache
def _small():
    backbone = tiny()
    return backbone, lively(backbone), jit(lambda v, x: backbone.apply(v, x)[0])


# What is published (BACKBONES 4.2).


@pytest.mark.parametrize(
    ("name", "heads", "total", "of_heads"),
    [
        ("hrnet_w18s", "redesigned", 3_997_492, [34_963, 13_459, 9_491, 78_859]),
        ("hrnet_w18s", "plain", 4_033_556, [71_187, 4_123, 18_667, 78_859]),
        ("hrnet_w48", "redesigned", 66_062_700, [102_675, 54_803, 45_843, 534_259]),
        pytest.param(
            "hrnet_w48",
            "plain",
            66_074_796,
            [71_187, 23_923, 120_307, 534_259],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_has_the_published_parameters(name, heads, total, of_heads):
    backbone, shapes = _published(name, heads)
    assert _size(shapes["params"]) == total
    assert [_size(tree) for tree in backbone.part_params(shapes)["heads"]] == of_heads


@pytest.mark.parametrize(
    ("name", "macs", "of_backbone", "in_1024_cubed"),
    [
        (
            "hrnet_w18s",
            [25.43, 37.30, 53.55, 78.63],
            [24.53, 35.95, 51.78, 66.63],
            [23.7, 34.7, 49.9, 73.2],
        ),
        pytest.param(
            "hrnet_w48",
            [45.01, 113.35, 395.17, 753.07],
            [42.78, 109.52, 389.62, 677.77],
            [41.9, 105.6, 368.0, 701.3],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_has_the_published_multiply_adds(name, macs, of_backbone, in_1024_cubed):
    backbone, shapes = _published(name, "redesigned")
    x = jax.ShapeDtypeStruct((1, 1024, 2048, 3), np.float32)
    counted = costs.exit_mflops(backbone, shapes, x)
    found, heads = counted.costs * 5e5, counted.head_costs * 5e5
    np.testing.assert_allclose(found / 1e9, macs, rtol=0, atol=0.0051)
    alone = found - np.cumsum(heads)
    np.testing.assert_allclose(alone / 1e9, of_backbone, rtol=0, atol=0.0051)
    np.testing.assert_allclose(found / 1024**3, in_1024_cubed, rtol=0, atol=0.051)


def test_its_logits_are_the_published_ones():
    backbone, _ = _published("hrnet_w18s", "redesigned")
    variables = from_torch.convert("hrnet_w18s", golden_tensors())
    with np.load(GOLDEN) as golden:
        logits = jit(lambda v, x: backbone.apply(v, x)[0])(variables, golden["input"])
        for k in range(4):
            assert_golden(logits[k], golden[f"logits_{k}"])


# The contract of maps.


def test_it_answers_with_maps():
    backbone, _, _ = _small()
    assert backbone.output_kind == "map" and backbone.input_kind == "image"
    assert backbone.example().shape == (1, 128, 128, 3)
    assert backbones.build("resnet20", num_classes=2).output_kind == "class"


@pytest.mark.parametrize("size", [(45, 61), (1, 7)])
def test_any_size_of_image_will_do(size):
    backbone, variables, _ = _small()
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(backbone.apply, variables, x)
    height, width = (-(-side // 4) for side in size)
    assert logits.shape == (4, 2, height, width, 3) and logits.dtype == jnp.float32
    carry = jax.eval_shape(backbone.stem, variables, x)
    for k in range(4):
        stage = functools.partial(backbone.stage, k)
        carry = jax.eval_shape(stage, variables, carry)
        assert [m.shape[0] for m in carry] == [2] * (k + 1)
        assert carry[0].shape[1:3] == (height, width)
        seen = jax.eval_shape(
            functools.partial(backbone.exit_features, k), variables, carry
        )
        assert seen.shape == (2, sum(m.shape[3] for m in carry))


def test_odd_sizes_give_finite_logits():
    _, variables, apply = _small()
    logits = apply(variables, images(1, 45, 61))
    assert logits.shape == (4, 1, 12, 16, 3) and np.isfinite(logits).all()


def test_the_staged_view_folds_to_apply_and_rows_may_be_dropped():
    backbone, variables, apply = _small()
    x, keep = images(3, 32, 64), np.array([2, 0])

    @jit
    def fold(variables, x):
        carry, logits = backbone.stem(variables, x), []
        carry = jax.tree.map(lambda leaf: leaf[keep], carry)
        for k in range(4):
            carry = backbone.stage(k, variables, carry)
            logits.append(backbone.head(k, variables, carry))
        return jnp.stack(logits)

    whole = np.asarray(apply(variables, x))[:, keep]
    np.testing.assert_allclose(fold(variables, x), whole, rtol=1e-4, atol=1e-4)


def test_an_exit_ignores_later_stages():
    _, variables, apply = _small()
    x = images(3, 32, 64)
    before = np.asarray(apply(variables, x))
    for k in range(3):
        later = tuple(f"{part}_{k + 1}" for part in ("stages", "heads"))
        params = {
            name: jax.tree.map(lambda leaf: leaf + 0.3, tree) if name in later else tree
            for name, tree in variables["params"].items()
        }
        after = np.asarray(apply({**variables, "params": params}, x))
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[k + 1] != before[k + 1]).any()


def test_training_changes_statistics_slowly():
    backbone, variables, _ = _small()
    x = images(2, 32, 64)
    run = jit(lambda v, x: backbone.apply(v, x, train=True)[1])
    stats = run(variables, x)["batch_stats"]
    old = variables["batch_stats"]["stem"]["conv1"]["bn"]["mean"]
    kernel = variables["params"]["stem"]["conv1"]["conv"]["kernel"]
    maps = cpu_layers.plain_convolve(x, kernel, 2)
    expected = 0.99 * old + 0.01 * maps.mean((0, 1, 2))
    found = stats["stem"]["conv1"]["bn"]["mean"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    changed = jax.tree.map(lambda a, b: np.any(a != b), stats, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


# Heads.


def test_an_odd_map_is_halved_by_means_of_what_is_there():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    expected = [[2, 3.5], [6.5, 8]]
    np.testing.assert_array_equal(hrnet_heads._halve(x)[0, :, :, 0], expected)


def test_features_are_the_means_of_what_the_head_reads():
    head = hrnet_heads.PlainHead(3, hrnet_heads.Style())
    maps = tuple(jnp.asarray(images(2, n, 2 * n)) for n in (8, 4, 1))
    expected = hrnet_heads.together(maps).mean((1, 2))
    np.testing.assert_allclose(head.features(maps), expected, rtol=1e-4, atol=1e-6)


# Options.


def test_exits_may_be_left_out_and_heads_be_plain():
    assert small(exits=()).num_exits == 1
    backbone = small(exits=(2,))
    parts = backbone.part_params(shapes_of(backbone))
    assert [len(stage) for stage in parts["stages"]] == [2, 2]
    assert sorted(parts["heads"][0]) == ["down_0", "down_1", "logits", "up_0"]
    backbone = small(exits=(1, 3), heads="plain", init="he")
    heads = backbone.part_params(shapes_of(backbone))["heads"]
    assert all(sorted(head) == ["logits", "mix"] for head in heads)


@pytest.mark.parametrize(("init", "deviation"), [("published", 0.001), ("he", None)])
def test_kernels_start_as_asked(init, deviation, key):
    backbone = small(init=init)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    stem = backbone.module.stem
    variables = stem.init(key, jnp.zeros(x.shape))
    kernel = variables["params"]["conv2"]["conv"]["kernel"]
    expected = deviation or math.sqrt(2 / math.prod(kernel.shape[:3]))
    np.testing.assert_allclose(kernel.std(), expected, rtol=0.25)
    assert not variables["params"]["conv2"]["bn"]["bias"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": -1}, "options.width=-1 must be at least 1, or 0 for the published"),
        ({"head_width": -2}, "options.head_width=-2 must"),
        ({"stem_width": 0}, "options.stem_width=0 must be at least 1"),
        ({"heads": "conv"}, "options.heads='conv' is unknown; .*'redesigned'"),
        ({"init": "zero"}, "options.init='zero' is unknown; .*'published', 'he'"),
        ({"mask": "all"}, "options.mask='all' is unknown; .*'none', 'confidence'"),
        ({"mask": "confidence", "mask_threshold": 1.5}, "mask_threshold=1.5 must be a"),
        ({"learn_lambda": True}, "learn_lambda=True is for masked networks; set"),
        ({"exits": (0, 2)}, "no exit can be at 0; .* stage counts from 1 to 3"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        small(**options)
