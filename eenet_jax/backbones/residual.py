"""Residual blocks (He et al. 2016), of networks and of exit heads."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.layers import batch_norm, conv, relu


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """Shape of one residual block: width of its 3x3 convolutions and its stride."""

    width: int
    stride: int


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Where the shape changes, an "identity" shortcut (option A of He et al.) takes every
    second pixel and pads the channels with zeros on either side; "projection" is a 1x1
    convolution with BatchNorm.
    """

    spec: BlockSpec
    shortcut: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        width, stride, dtype = self.spec.width, self.spec.stride, self.dtype
        y = conv(width, 3, stride=stride, dtype=dtype, name="conv1")(x)
        y = relu(batch_norm(train, dtype=dtype, name="bn1")(y))
        y = conv(width, 3, dtype=dtype, name="conv2")(y)
        y = batch_norm(train, dtype=dtype, name="bn2")(y)
        if stride != 1 or x.shape[-1] != width:
            if self.shortcut == "identity":
                x = x[:, ::stride, ::stride]
                extra = width - x.shape[-1]
                sides = (extra // 2, extra - extra // 2)
                x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), sides))
            else:
                x = conv(width, 1, stride=stride, dtype=dtype, name="shortcut_conv")(x)
                x = batch_norm(train, dtype=dtype, name="shortcut_bn")(x)
        return relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (which strides) and 1x1 to four times the width, and a shortcut."""

    spec: BlockSpec
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        width, stride, dtype = self.spec.width, self.spec.stride, self.dtype
        y = conv(width, 1, dtype=dtype, name="conv1")(x)
        y = relu(batch_norm(train, dtype=dtype, name="bn1")(y))
        y = conv(width, 3, stride=stride, dtype=dtype, name="conv2")(y)
        y = relu(batch_norm(train, dtype=dtype, name="bn2")(y))
        y = conv(4 * width, 1, dtype=dtype, name="conv3")(y)
        y = batch_norm(train, dtype=dtype, name="bn3")(y)
        if stride != 1 or x.shape[-1] != 4 * width:
            x = conv(4 * width, 1, stride=stride, dtype=dtype, name="shortcut_conv")(x)
            x = batch_norm(train, dtype=dtype, name="shortcut_bn")(x)
        return relu(x + y)
