"""DenseNets with exits: EENet's and torchvision's DenseNet-121, CIFAR's DenseNet-BC.

An exit location L means "after the first L dense blocks": the exit reads what the
transition behind block L gives, as it is. The last exit follows the last block, which
has no transition, and is not named. Stage k holds the blocks between exits k-1 and k.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.heads import MapHead, build_head
from eenet_jax.backbones.layers import Linear, batch_norm, conv, relu
from eenet_jax.backbones.resnet import Segment
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

STEMS = ("cifar", "imagenet")


@dataclasses.dataclass(frozen=True)
class DenseSpec:
    """Shape of a DenseNet.

    Attributes:
      layers: Dense layers of each block.
      growth: k, the channels that a layer adds; its 1x1 convolution gives 4k and the
        stem 2k.
      new_first: Whether a layer puts its new channels before its input or behind it.
      stem: "cifar" or "imagenet".
    """

    layers: tuple[int, ...]
    growth: int
    new_first: bool
    stem: str


class CifarStem(nn.Module):
    """A 3x3 convolution alone: each dense layer begins with its own BatchNorm."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return conv(self.width, 3, dtype=self.dtype, name="conv")(x)


class ImageNetStem(nn.Module):
    """7x7 convolution of stride 2, BatchNorm, ReLU and 3x3 max pooling of stride 2."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = conv(self.width, 7, stride=2, dtype=self.dtype, name="conv")(x)
        x = relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and 1x1 convolution to 4k, the same and 3x3 to k; concatenation.

    Maps ``[B, H, W, D]`` to ``[B, H, W, D + k]``, k being ``growth``.
    """

    growth: int
    new_first: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = relu(batch_norm(train, dtype=self.dtype, name="bn1")(x))
        y = conv(4 * self.growth, 1, dtype=self.dtype, name="conv1")(y)
        y = relu(batch_norm(train, dtype=self.dtype, name="bn2")(y))
        y = conv(self.growth, 3, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([y, x] if self.new_first else [x, y], axis=-1)


class Transition(nn.Module):
    """BatchNorm, ReLU, 1x1 convolution to half the channels and 2x2 average pooling.

    An odd last row or column is dropped.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width, channels = x.shape[1:]
        if min(height, width) < 2:
            raise UserError(
                f"a map of {height} x {width} pixels cannot be halved: the images are "
                "too small for this network; give larger ones, or a DenseNet-121 "
                "model.options.stem='cifar'"
            )
        x = relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        x = conv(channels // 2, 1, dtype=self.dtype, name="conv")(x)
        return nn.avg_pool(x, (2, 2), (2, 2))


class DenseBlock(nn.Module):
    """Dense layers, and behind every block but the last its transition."""

    num_layers: int
    growth: int
    new_first: bool
    is_last: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for i in range(self.num_layers):
            layer = DenseLayer(
                self.growth, self.new_first, self.dtype, name=f"layer{i}"
            )
            x = layer(x, train)
        if self.is_last:
            return x
        return Transition(self.dtype, name="transition")(x, train)


class NormHead(MapHead):
    """BatchNorm, ReLU, global average pool and a linear layer: a DenseNet's end."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        x = relu(batch_norm(train, dtype=self.dtype, name="bn")(carry))
        return Linear(self.num_classes, self.dtype, name="linear")(x.mean((1, 2)))


def densenet121_4(
    num_classes: int,
    *,
    exits: Sequence[int] = (1, 2, 3),
    growth: int = 12,
    stem: str = "cifar",
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds EENet's DenseNet121-4: blocks of 6, 12, 24 and 16 layers, 4 exits.

    Its layers put their new channels before their input, unlike torchvision's.

    Args:
      num_classes: C.
      exits: Locations, from 1 to 3.
      growth: Channels that a layer adds; EENet has 12 for CIFAR, 32 for ImageNet.
      stem: "cifar" (3x3 convolution) or "imagenet" (a quarter of the resolution).
      head: Head of the early exits, "conv", "linear", "flat" or "residual".
      reduction: Of the conv head.
      dtype: Compute type.

    Raises:
      UserError: If growth, stem, head, reduction or exits are not possible.
    """
    spec = DenseSpec((6, 12, 24, 16), growth, new_first=True, stem=stem)
    return build_staged(spec, num_classes, exits, head, reduction, dtype)


def densenet121(
    num_classes: int,
    *,
    exits: Sequence[int] = (1, 2, 3),
    growth: int = 32,
    stem: str = "imagenet",
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds torchvision's DenseNet-121 with exits behind its three transitions.

    Its layers put their new channels behind their input. Arguments and errors are
    those of ``densenet121_4``.
    """
    spec = DenseSpec((6, 12, 24, 16), growth, new_first=False, stem=stem)
    return build_staged(spec, num_classes, exits, head, reduction, dtype)


def densenet_bc_40_12(
    num_classes: int,
    *,
    exits: Sequence[int] = (1, 2),
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds the CIFAR DenseNet-BC of depth 40, k = 12 (Huang et al. 2017), with exits.

    Three blocks of 6 layers, new channels behind the input; exits at 1 and 2. Other
    arguments and errors are those of ``densenet121_4``.
    """
    spec = DenseSpec((6, 6, 6), growth=12, new_first=False, stem="cifar")
    return build_staged(spec, num_classes, exits, head, reduction, dtype)


def build_staged(
    spec: DenseSpec,
    num_classes: int,
    exits: Sequence[int],
    head: str,
    reduction: int,
    dtype: Any,
) -> StagedModule:
    """Builds a DenseNet with exits; see ``densenet121_4``."""
    stem = build_stem(spec, dtype)
    stages = build_stages(spec, exits, dtype)
    early_head = build_head(head, num_classes, reduction=reduction, dtype=dtype)
    heads = (*(early_head.clone() for _ in stages[1:]), NormHead(num_classes, dtype))
    image_size = 224 if spec.stem == "imagenet" else 32
    return StagedModule(stem, stages, heads, image_size=image_size)


def build_stem(spec: DenseSpec, dtype: Any) -> nn.Module:
    """Builds the stem, of 2k channels.

    Raises:
      UserError: If the stem or the growth is not usable.
    """
    if spec.growth < 1:
        raise UserError(f"model.options.growth={spec.growth} must be at least 1")
    if spec.stem not in STEMS:
        raise UserError(
            f"model.options.stem={spec.stem!r} is unknown; choose from {STEMS}"
        )
    kind = ImageNetStem if spec.stem == "imagenet" else CifarStem
    return kind(2 * spec.growth, dtype)


def build_stages(
    spec: DenseSpec, exits: Sequence[int], dtype: Any
) -> tuple[Segment, ...]:
    """Builds the dense blocks, cut at the early exits into K stages.

    Raises:
      UserError: If an exit lies outside 1 .. blocks - 1 or they do not increase.
    """
    last = len(spec.layers)
    blocks = [
        DenseBlock(size, spec.growth, spec.new_first, number == last, dtype)
        for number, size in enumerate(spec.layers, 1)
    ]
    bounds = [0, *check_exits(exits, last, first=1, what="dense block"), last]
    return tuple(Segment(tuple(blocks[a:b])) for a, b in itertools.pairwise(bounds))
