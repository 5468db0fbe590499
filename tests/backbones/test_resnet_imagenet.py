"""torchvision's ResNets: published sizes and arithmetic, exits, stems, refusals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import resnet_imagenet
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.errors import UserError


def _build(depth: int, num_classes: int = 10, **options):
    return backbones.build(f"resnet{depth}", num_classes=num_classes, **options)


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


@pytest.mark.parametrize(
    ("depth", "count"), [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)]
)
def test_it_has_torchvisions_parameters(depth, count):
    assert _num_params(_build(depth, 1000, exits=())) == count


def test_resnet50_has_the_published_arithmetic():
    backbone = _build(50, exits=(0, 3, 7))
    expected = [118.0, 786.0, 1813.6, 4087.1, 4087.2]  # BACKBONES 2.2; before the fc
    np.testing.assert_allclose(_backbone_mmacs(backbone), expected, atol=0.06)
    assert _num_params(_build(50, exits=())) == 23_528_522


def test_resnet34_for_small_images_has_the_published_arithmetic():
    backbone = _build(34, exits=(3, 7, 13), stem="small")
    expected = [228.262, 513.475, 949.682, 1159.397, 1159.402]  # BACKBONES 3.3
    np.testing.assert_allclose(_backbone_mmacs(backbone), expected, atol=6e-4)
    count = 21_593_266 - 311_144  # published, less its exits
    assert _num_params(_build(34, exits=(), stem="small")) == count


@pytest.mark.parametrize(
    ("depth", "lengths"), [(18, [2, 2, 2, 2]), (34, [3, 4, 6, 3]), (50, [3, 4, 6, 3])]
)
def test_default_exits_are_the_ends_of_the_first_three_layers(depth, lengths):
    backbone = _build(depth)
    shapes = _shapes(backbone)
    stages = backbone.part_params(shapes)["stages"]
    assert [len(stage) for stage in stages] == lengths
    assert set(shapes["params"]["heads_0"]) >= {"conv0", "bn2", "linear"}
    width = 256 if depth == 50 else 64
    kernel = shapes["params"]["heads_0"]["conv0"]["kernel"]
    assert kernel.shape == (3, 3, width, width // 4)


@pytest.mark.parametrize(
    ("stem", "size", "maps"),
    [
        ("imagenet", (224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ("imagenet", (65, 70), [(17, 18), (9, 9), (5, 5), (3, 3)]),
        ("imagenet", (1, 7), [(1, 2), (1, 1), (1, 1), (1, 1)]),
        ("small", (32, 32), [(32, 32), (16, 16), (8, 8), (4, 4)]),
        ("small", (33, 15), [(33, 15), (17, 8), (9, 4), (5, 2)]),
    ],
)
def test_maps_shrink_as_published_at_any_size(stem, size, maps):
    backbone = _build(18, 7, stem=stem, head="linear")
    variables = _shapes(backbone)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    carry = jax.eval_shape(backbone.stem, variables, x)
    for k, expected in enumerate(maps):
        carry = jax.eval_shape(
            lambda v, c, k=k: backbone.stage(k, v, c), variables, carry
        )
        assert carry.shape == (2, *expected, 64 * 2**k)
    logits, _ = jax.eval_shape(backbone.apply, variables, x)
    assert logits.shape == (4, 2, 7)


def test_the_stem_says_for_which_images_it_is():
    assert _build(18).example().shape == (1, 224, 224, 3)
    assert _build(18, stem="small").example().shape == (1, 32, 32, 3)


def test_the_large_stem_convolves_and_pools_with_symmetric_padding(key):
    stem = resnet_imagenet.ImageNetStem(1, jnp.float32)
    x = np.random.default_rng(0).standard_normal((1, 10, 13, 3)).astype(np.float32)
    kernel = np.zeros((7, 7, 3, 1), np.float32)
    kernel[3, 3, 0] = 1  # takes every second pixel of channel 0, from the first
    variables = jax.eval_shape(stem.init, key, x)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables)
    variables["params"] = {
        "conv": {"kernel": kernel},
        "bn": {"scale": jnp.ones(1), "bias": jnp.zeros(1)},
    }
    variables["batch_stats"]["bn"]["var"] = jnp.ones(1)
    taken = np.pad(np.maximum(x[0, ::2, ::2, 0], 0), 1)  # 5 x 7 within a border
    windows = np.lib.stride_tricks.sliding_window_view(taken, (3, 3))[::2, ::2]
    y = stem.apply(variables, x)
    assert y.shape == (1, 3, 4, 1)
    np.testing.assert_allclose(y[0, :, :, 0], windows.max((2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "cifar"}, r"stem='cifar' is unknown; .*'imagenet', 'small'"),
        ({"head": "cnv"}, "head='cnv' is unknown"),
        ({"exits": (8,)}, r"no exit can be at 8; .* counts from 0 to 7"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        _build(18, **options)


def test_an_unknown_depth_is_refused():
    with pytest.raises(UserError, match=r"depth=26 is unknown; .*\(18, 34, 50\)"):
        resnet_imagenet.imagenet_resnet(10, depth=26)
