"""Blocks of images as samples: cutting, joining, and what they compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones
from eenet_jax.backbones import blocks
from eenet_jax.costs import exit_mflops
from eenet_jax.data.map_records import VOID
from eenet_jax.errors import UserError
from eenet_jax.training import step
from tests import maps


@pytest.fixture
def network(monkeypatch):
    """The small network of maps, with variables."""
    monkeypatch.setitem(backbones.BACKBONES, "toy_map", maps.network)
    backbone = backbones.build("toy_map", num_classes=3)
    return backbone, backbone.init(jax.random.key(0), backbone.example())


@pytest.mark.parametrize("grid, size", [((2, 3), (8, 12)), ((3, 2), (7, 5))])
def test_joining_undoes_cutting(grid, size):
    x = jnp.arange(2 * size[0] * size[1] * 2.0).reshape(2, *size, 2)
    parts = blocks.cut(x, grid, 0)
    assert len(parts) == 2 * grid[0] * grid[1]
    np.testing.assert_array_equal(blocks.join(parts, grid, size), x)


def test_a_halo_shows_what_is_around():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    found = blocks.cut(x, (2, 2), 1)
    assert found.shape == (4, 4, 4, 1)
    np.testing.assert_array_equal(found[0, 1:, 1:, 0], x[0, :3, :3, 0])
    assert not found[0, 0].any() and not found[0, :, 0].any()
    np.testing.assert_array_equal(found[3, :3, :3, 0], x[0, 1:, 1:, 0])


def test_with_a_wide_halo_blocks_are_as_whole_images(network, key):
    backbone, variables = network
    x = jax.random.normal(key, (2, 32, 32, 3))
    whole, _ = backbone.apply(variables, x)
    cut = blocks.in_blocks(backbone, (2, 2), 3)
    logits, _ = cut.apply(variables, x)
    assert logits.shape == (3, 8, 8, 8, 3)
    joined = jnp.stack([blocks.join(each, (2, 2), (16, 16)) for each in logits])
    # Two convolutions of 3x3 follow where maps are cut; zeros beyond the image are
    # what they see there in any case, but for what the first of them makes of these.
    inside = (..., slice(2, -2), slice(2, -2), slice(None))
    np.testing.assert_allclose(joined[inside], whole[inside], atol=1e-5)
    narrow = blocks.in_blocks(backbone, (2, 2), 0).apply(variables, x)[0]
    assert np.abs(blocks.join(narrow[2], (2, 2), (16, 16)) - whole[2]).max() > 1e-3


def test_labels_are_cut_alike_with_void_beyond(network):
    backbone, variables = network
    cut = blocks.in_blocks(backbone, (2, 2), 1)
    labels = np.arange(30 * 34).reshape(1, 30, 34).astype(np.uint8) % 200
    logits, _ = cut.apply(variables, jnp.zeros((1, 30, 34, 3)))
    found = np.asarray(cut.cut_labels(jnp.asarray(labels), logits.shape[2:4]))
    assert found.shape[0] == 4
    joined = blocks.join(jnp.asarray(found), (2, 2), (32, 36))
    np.testing.assert_array_equal(joined[0, :30, :34], labels[0])
    assert (np.asarray(joined)[0, 30:] == VOID).all()


def test_costs_are_those_of_all_blocks(network):
    backbone, variables = network
    x = backbone.example()
    whole = exit_mflops(backbone, variables, x)
    cut = exit_mflops(blocks.in_blocks(backbone, (2, 2), 0), variables, x)
    np.testing.assert_allclose(cut.costs, whole.costs)
    wide = exit_mflops(blocks.in_blocks(backbone, (2, 2), 2), variables, x)
    assert wide.costs[0] < wide.costs[-1] and (wide.costs > whole.costs).all()


def test_blocks_know_the_whole_network(network, key):
    backbone, variables = network
    cut = blocks.in_blocks(backbone, (2, 2), 1)
    assert (cut.samples_per_input, backbone.samples_per_input) == (4, 1)
    x = jax.random.normal(key, (1, 32, 32, 3))
    for one, other in zip(
        cut.whole.apply(variables, x), backbone.apply(variables, x), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_training_cuts_too_and_joins_for_the_loss(network, key):
    backbone, variables = network
    x = jax.random.normal(key, (2, 32, 32, 3))
    cut = blocks.in_blocks(backbone, (2, 2), 1)
    expected, _ = cut.apply(variables, x)
    in_parts = jnp.stack(
        [cut.head(k, variables, c) for k, c in _carries(cut, variables, x)]
    )
    np.testing.assert_allclose(expected, in_parts, atol=1e-6)
    logits, _ = step.in_blocks(backbone, "2x2+1")(variables, x, {})
    joined = jnp.stack([blocks.join(each, (2, 2), (16, 16)) for each in expected])
    np.testing.assert_allclose(logits, joined, atol=1e-6)  # it has no BatchNorm


def _carries(cut, variables, x):
    carry = cut.stem(variables, x)
    for k in range(cut.num_exits):
        carry = cut.stage(k, variables, carry)
        yield k, carry


@pytest.mark.parametrize(
    "text, message",
    [
        ("3", "--blocks=3 must be rows x columns"),
        ("0x4", "at least two blocks"),
        ("1x1", "at least two blocks"),
        ("2x2-1", "must be rows x columns"),
    ],
)
def test_bad_blocks(network, text, message):
    with pytest.raises(UserError, match=message):
        blocks.in_blocks(network[0], *blocks.read_blocks(text))


def test_a_class_has_no_blocks():
    backbone = backbones.build("resnet20", num_classes=10)
    with pytest.raises(
        UserError, match="--blocks=2x2 is for networks that answer with"
    ):
        blocks.in_blocks(backbone, (2, 2))
    assert blocks.read_blocks("3x4+2") == ((3, 4), 2)
    assert blocks.read_blocks("3x4") == ((3, 4), 0)
