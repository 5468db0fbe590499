"""Confidence masks of HRNet: published logits and masks, filling in by hand, costs."""

import functools

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
)
from jax.test_util import check_grads

from eenet_jax import backbones, costs
from eenet_jax.backbones import from_torch, int8
from eenet_jax.backbones.hrnet_masked import fill, undecided
from eenet_jax.costs.masked import map_convs
from eenet_jax.errors import UserError


@functools.cache
def _small(threshold: float = 0.39):
    """A small network of whose pixels each exit decides some, and its variables."""
    backbone = small(mask="confidence", mask_threshold=threshold)
    variables = lively(backbone)
    for k, scale in enumerate((1, 0.1, 0.01, 0.003)):
        last = variables["params"][f"heads_{k}"]["logits"]
        last["kernel"] *= np.float32(scale)
        last["bias"] *= k == 0
    return backbone, variables, jit(lambda v, x: backbone.apply(v, x)[0])


def test_published_masks_and_logits_agree():
    variables = from_torch.convert("hrnet_w18s", golden_tensors())
    with np.load(GOLDEN) as golden:
        threshold = float(golden["threshold"])
        options = {"mask": "confidence", "mask_threshold": threshold}
        backbone = backbones.build("hrnet_w18s", num_classes=19, **options)
        logits = jit(lambda v, x: backbone.apply(v, x)[0])(variables, golden["input"])
        for k in range(4):
            assert_golden(logits[k], golden[f"masked_logits_{k}"])
        masks = [key for key in golden if key.startswith("mask_out")]
        assert len(masks) == 10
        for key in masks:
            k, size = key.removeprefix("mask_out").split("_")
            size = tuple(map(int, size.split("x")))
            mask = undecided(logits[int(k) - 1], "confidence", threshold, size)
            np.testing.assert_array_equal(mask, golden[key])
            assert 0 < mask.mean() < 1


@pytest.mark.slow
def test_143_convolutions_are_masked():
    backbone = small(mask="confidence", learn_lambda=True)
    shapes = shapes_of(backbone)
    assert len(jax.tree.leaves(shapes["params"]["lambdas"])) == 143
    convs = map_convs(backbone, shapes, backbone.example())
    assert sum(conv.exit > 0 for conv in convs) == 143
    dense = costs.exit_mflops(backbone, shapes, backbone.example()).costs * 5e5
    macs = np.bincount([c.exit for c in convs], [c.macs for c in convs])
    np.testing.assert_allclose(np.cumsum(macs), dense, rtol=1e-9)


# Masks and filling in.


def test_pixels_are_decided_by_probability_or_entropy():
    # Probabilities 1/2, 0.9 and 0.6 along a row of three pixels; one row.
    p = np.array([0.5, 0.9, 0.6], np.float32)
    logits = jnp.log(jnp.stack([p, 1 - p], -1))[None, None]
    open_ = undecided(logits, "confidence", 0.6 + 1e-6, (1, 3))
    np.testing.assert_array_equal(open_[0, 0], [True, False, True])
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))  # 0.673; of 0.9: 0.325
    for limit, expected in (
        (entropy - 1e-3, [True, False, True]),
        (entropy + 1e-3, [True, False, False]),
        (0.3, [True, True, True]),
    ):
        open_ = undecided(logits, "entropy", limit, (1, 3))
        np.testing.assert_array_equal(open_[0, 0], expected)
    # Pixel i of 2 reads pixel floor(3 i / 2): the first and the second.
    open_ = undecided(logits, "confidence", 0.7, (1, 2))
    np.testing.assert_array_equal(open_[0, 0], [True, False])


@pytest.mark.parametrize("lam", [0.3, 3.0])
def test_decided_pixels_are_filled_in_from_those_around(lam):
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, 6, 9, 3)).astype(np.float32)
    mask = rng.random((2, 6, 9)) < 0.4
    known = np.where(mask[..., None], y, 0).astype(np.float64)
    d = np.arange(-3, 4) ** 2
    weights = np.exp(-(lam**2) * (d[:, None] + d[None]))
    weights[3, 3] = 0
    weights /= weights.sum() + 1e-5
    wide = np.pad(known, ((0, 0), (3, 3), (3, 3), (0, 0)))
    around = sum(
        weights[i, j] * wide[:, i : i + 6, j : j + 9]
        for i in range(7)
        for j in range(7)
    )
    expected = np.where(mask[..., None], y, around)
    found = fill(jnp.asarray(y), jnp.asarray(mask), lam)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert not fill(jnp.asarray(y), jnp.zeros(mask.shape, bool), lam).any()
    check_grads(lambda y, lam: fill(y, mask, lam), (y, lam), order=1, rtol=2e-2)


# The network.


@pytest.mark.slow
def test_decided_pixels_keep_their_logits_and_rows_may_be_moved():
    backbone, variables, _ = _small()
    x = images(2, 40, 52)  # odd maps of the coarser scales

    @jit
    def fold(variables, x):
        carry, found = backbone.stem(variables, x), []
        for k in range(4):
            carry = backbone.stage(k, variables, carry)
            carry = jax.tree.map(lambda leaf: leaf[::-1], carry)
            found.append(backbone.head(k, variables, carry))
        return found, backbone.exit_features(3, variables, carry)

    logits, features = fold(variables, x)
    assert features.shape == (2, 15 * 4)
    for k in range(3):
        before, after = np.asarray(logits[k])[::-1], np.asarray(logits[k + 1])
        open_ = np.asarray(undecided(before, "confidence", 0.39, before.shape[1:3]))
        assert 0 < open_.mean() < 1
        np.testing.assert_array_equal(after[~open_], before[~open_])
        assert (after[open_] != before[open_]).any(-1).all()


# What it would cost.


@pytest.mark.slow
def test_costs_are_those_of_each_image_alone():
    backbone, variables, _ = _small()
    x = images(2, 32, 64)
    logits = np.zeros((4, 2, 8, 16, 3), np.float32)
    logits[0, 0, :4, :, 0] = 9  # the upper half of the first image is decided
    logits[1:, 0, ..., 0] = 9  # then all of it
    found = costs.masked_macs(backbone, variables, x, logits)
    convs = map_convs(backbone, variables, x)
    expected = np.zeros(4)
    for conv in convs:
        size = conv.size[0] * conv.size[1] * conv.channels
        full = conv.exit == 0
        half = conv.exit == 1 and 0.5 * conv.macs + 0.25 * 49 * size
        expected[conv.exit] += conv.macs if full else half
    np.testing.assert_allclose(found[:, 0], np.cumsum(expected), rtol=1e-9)
    assert found[3, 0] == found[1, 0]
    assert found[3, 1] == sum(conv.macs for conv in convs)


def test_what_masks_do_not_serve_is_refused():
    backbone, variables, _ = _small()
    x, plain = images(1, 32, 32), small()
    logits = np.zeros((4, 1, 8, 8, 3))
    with pytest.raises(UserError, match="leaves out no pixels: set .*mask to"):
        costs.masked_macs(plain, variables, x, logits)
    with pytest.raises(UserError, match="masks cannot run in int8; build it with"):
        int8.quantise(backbone, variables, [x])
    with pytest.raises(UserError, match="masked network cannot be trained alone"):
        backbone.train_heads(variables, ())
