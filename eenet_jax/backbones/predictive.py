"""Predictive Exit's networks: an exit after every layer (shared/BACKBONES.md 3).

An exit location counts the layers before it. In VGG-19 these are the convolutions,
each with its BatchNorm and ReLU, and the pools; in ResNet-34 half residual blocks.
The layer before the last exit is a pool, so that all layers but it may have an exit.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.bof import HeadParts, build_heads
from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.heads import FlatHead, LinearHead
from eenet_jax.backbones.layers import batch_norm, conv, relu
from eenet_jax.backbones.residual import BlockSpec
from eenet_jax.backbones.resnet import Stem, block_specs, cut
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.vgg import AveragePool, ConvBlock, Images, MaxPool, check_sizes

VGG_LENGTHS = (2, 2, 4, 4, 4)  # convolutions before each pool
VGG_WIDTHS = (1, 2, 4, 8, 8)  # times that of the first
RESNET_LENGTHS = (3, 4, 6, 3)  # blocks of each layer
# Sides of the windows: a quarter of a 32x32 image's map, in VGG's last stage all of it.
HORIZONS = (16, 8, 4, 2)

Pair = tuple[jax.Array, jax.Array]


def predictive_vgg19(
    num_classes: int,
    *,
    exits: Sequence[int] | None = None,
    width: int = 64,
    codewords: int = 64,
    share_heads: bool = True,
    image_size: int = 32,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds VGG-19 with an exit after every convolution and the first four pools.

    All exits share two or, for images larger than 32x32, three linear layers, and the
    exits of a stage (the last two stages being one) a bag of features.

    Args:
      num_classes: C.
      exits: Locations, 1 to 20; by default all of them.
      width: Channels of the first stage; the later ones have 2, 4, 8 and 8 times that.
      codewords: Of the bags of features.
      share_heads: Whether exits share the parts of their heads, as published.
      image_size: Side in pixels of the images it is meant for, 96 for STL-10.
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible.
    """
    check_sizes(width=width, codewords=codewords, image_size=image_size)
    layers: list[nn.Module] = []
    for factor, length in zip(VGG_WIDTHS, VGG_LENGTHS, strict=True):
        layers += [ConvBlock(factor * width, dtype) for _ in range(length)]
        layers.append(MaxPool())
    exits = layer_exits(exits, len(layers))
    parts = [vgg_parts()[location - 1] for location in exits]
    options = {"codewords": codewords, "share": share_heads, "dtype": dtype}
    heads = build_heads(parts, num_classes, **options)
    return StagedModule(
        Images("VGG", len(VGG_LENGTHS)),
        cut(layers, exits),
        (*heads, FlatHead(num_classes, dtype)),
        image_size=image_size,
    )


predictive_vgg19_stl10 = functools.partial(predictive_vgg19, image_size=96)


def layer_exits(exits: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Returns checked locations; None is behind every layer but the last."""
    exits = range(1, num_layers) if exits is None else exits
    return check_exits(exits, num_layers, first=1, what="layer")


def vgg_parts() -> tuple[HeadParts, ...]:
    """Returns the parts of the heads behind VGG's layers, by their published names."""
    parts = []
    for stage, length in enumerate(VGG_LENGTHS):
        bag = min(stage, len(HORIZONS) - 1)
        # Pools and the last stage have maps of half as many windows a side.
        for few in (*(stage > bag for _ in range(length)), True):
            hidden = "exit_2_fc" if few else "exit_0_fc"
            parts.append(HeadParts(HORIZONS[bag], f"exit_{bag}", hidden, "exit_1_fc"))
    return tuple(parts)


class FirstHalf(nn.Module):
    """The first convolution of a basic block, and the block's shortcut.

    Maps x to a pair: what its ReLU gives, and x or its projection where the shape
    changes, which the second half adds.
    """

    spec: BlockSpec
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Pair:
        width, stride, dtype = self.spec.width, self.spec.stride, self.dtype
        y = conv(width, 3, stride=stride, dtype=dtype, name="conv1")(x)
        y = relu(batch_norm(train, dtype=dtype, name="bn1")(y))
        if stride != 1 or x.shape[-1] != width:
            x = conv(width, 1, stride=stride, dtype=dtype, name="shortcut_conv")(x)
            x = batch_norm(train, dtype=dtype, name="shortcut_bn")(x)
        return y, x


class SecondHalf(nn.Module):
    """The second convolution of a basic block, and the sum with the shortcut."""

    spec: BlockSpec
    dtype: Any

    @nn.compact
    def __call__(self, carry: Pair, train: bool = False) -> jax.Array:
        y, shortcut = carry
        y = conv(self.spec.width, 3, dtype=self.dtype, name="conv2")(y)
        y = batch_norm(train, dtype=self.dtype, name="bn2")(y)
        return relu(shortcut + y)


class PooledStem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, and a max pool where ``pool`` is above 1."""

    width: int
    pool: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = Stem(self.width, self.dtype, name="pre")(x, train)
        window = (self.pool, self.pool)
        return nn.max_pool(x, window, window) if self.pool > 1 else x


def predictive_resnet34(
    num_classes: int,
    *,
    exits: Sequence[int] | None = None,
    width: int = 64,
    codewords: int = 64,
    share_heads: bool = True,
    pool: int = 1,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds ResNet-34 with an exit after every half of a residual block.

    The two exits of a block share a bag of features, those of a layer's blocks two
    linear layers.

    Args:
      num_classes: C.
      exits: Locations, 1 to 32; by default all of them.
      width: Channels of the first layer; the later ones have 2, 4 and 8 times that.
      codewords: Of the bags of features.
      share_heads: Whether exits share the parts of their heads, as published.
      pool: Side of the stem's max pool: 3 for STL-10's images of 96x96, 1 for none.
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible.
    """
    check_sizes(width=width, codewords=codewords, pool=pool)
    layers: list[nn.Module] = []
    for spec in block_specs(RESNET_LENGTHS, width):
        layers += [FirstHalf(spec, dtype), SecondHalf(spec, dtype)]
    layers.append(AveragePool(1))
    exits = layer_exits(exits, len(layers))
    parts = [resnet_parts()[location - 1] for location in exits]
    options = {"codewords": codewords, "share": share_heads, "dtype": dtype}
    heads = build_heads(parts, num_classes, **options)
    return StagedModule(
        PooledStem(width, pool, dtype),
        cut(layers, exits),
        (*heads, LinearHead(num_classes, dtype)),
        image_size=32 * pool,
    )


def resnet_parts() -> tuple[HeadParts, ...]:
    """Returns the parts of the heads behind half blocks, by their published names."""
    blocks = [(i, j) for i, length in enumerate(RESNET_LENGTHS) for j in range(length)]
    parts = [
        HeadParts(
            HORIZONS[layer],
            f"block{block + 1}_exit_{layer}",
            f"layer{layer + 1}_exit_0_fc",
            f"layer{layer + 1}_exit_1_fc",
        )
        for layer, block in blocks
    ]
    return tuple(itertools.chain.from_iterable((p, p) for p in parts))
