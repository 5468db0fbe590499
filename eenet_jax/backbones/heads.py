"""Exit heads for image maps: from a carry [B, H, W, D] to logits [B, C]."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.layers import Linear, batch_norm, conv, relu
from eenet_jax.backbones.residual import BasicBlock, BlockSpec
from eenet_jax.errors import UserError

HEADS = ("conv", "linear", "flat", "residual")
SMALLEST = 8  # side of the maps that a residual head pools
BLOCKS = 2  # of a residual head at each size of map


class MapHead(nn.Module):
    """A head whose exit's gate may read the map itself."""

    def features(self, carry: jax.Array) -> jax.Array:
        """Returns the map, [B, H, W, D]."""
        return carry


class LinearHead(MapHead):
    """Global average pool, then a linear layer: the usual end of a ResNet."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        pooled = jnp.mean(carry, axis=(1, 2))  # [B, H, W, D] -> [B, D]
        return Linear(self.num_classes, self.dtype, name="linear")(pooled)


class FlatHead(MapHead):
    """One linear layer on the whole map, in PyTorch's order D, H, W (LEENet)."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        flat = carry.transpose(0, 3, 1, 2).reshape(carry.shape[0], -1)
        return Linear(self.num_classes, self.dtype, name="linear")(flat)


class ConvHead(MapHead):
    """Three 3x3 convolutions of width D / reduction, then pool and linear (EENet)."""

    num_classes: int
    reduction: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        width = max(1, carry.shape[-1] // self.reduction)
        x = carry
        for i in range(3):
            x = conv(width, 3, dtype=self.dtype, name=f"conv{i}")(x)
            x = relu(batch_norm(train, dtype=self.dtype, name=f"bn{i}")(x))
        return Linear(self.num_classes, self.dtype, name="linear")(x.mean((1, 2)))


class ResidualHead(MapHead):
    """Pairs of residual blocks, each half the map and twice the width; pool and linear.

    As many as leave a map of at most 8 pixels a side: an early exit sees as far as the
    last one does (Zhang et al. 2019, "Be Your Own Teacher", with basic blocks).
    """

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        x, i = carry, 0
        while min(x.shape[1:3]) > SMALLEST:
            width = 2 * x.shape[-1]
            for stride in (2, *(1,) * (BLOCKS - 1)):
                block = BasicBlock(
                    BlockSpec(width, stride), "projection", self.dtype, name=f"block{i}"
                )
                x, i = block(x, train), i + 1
        return Linear(self.num_classes, self.dtype, name="linear")(x.mean((1, 2)))


def build_head(
    kind: str, num_classes: int, *, reduction: int = 4, dtype: Any = jnp.float32
) -> nn.Module:
    """Builds the head of an early exit.

    Args:
      kind: "conv" (EENet's three convolutions), "linear" (pool and linear), "flat"
        (linear on the whole map, which binds it to one size of images) or "residual"
        (residual blocks down to a map of 8 pixels a side, pool and linear).
      num_classes: C.
      reduction: The conv head's width is the map's channels divided by this.
      dtype: Compute type; parameters and logits are float32.

    Raises:
      UserError: If ``kind`` or ``reduction`` is not usable.
    """
    if reduction < 1:
        raise UserError(f"model.options.reduction={reduction} must be at least 1")
    if kind == "conv":
        return ConvHead(num_classes, reduction, dtype)
    if kind == "linear":
        return LinearHead(num_classes, dtype)
    if kind == "flat":
        return FlatHead(num_classes, dtype)
    if kind == "residual":
        return ResidualHead(num_classes, dtype)
    raise UserError(f"model.options.head={kind!r} is unknown; choose from {HEADS}")
