"""Heads of HRNet's exits, and the layer that backbone and heads are made of.

A head reads every map of its carry, enlarged to the finest and concatenated, and
returns logits of the finest map's size (ADP-C, Liu et al., ICLR 2022).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.layers import Conv, batch_norm, relu
from eenet_jax.backbones.resize import enlarge

HEADS = ("redesigned", "plain")
KERNEL_INITS = {
    "published": nn.initializers.normal(0.001),
    "he": nn.initializers.he_normal(),
}
MOMENTUM = 0.99  # 0.01 as PyTorch counts it

Maps = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers share: the name of the kernels' initialiser, and compute type."""

    init: str = "published"
    dtype: Any = jnp.float32


class ConvNorm(nn.Module):
    """Convolution padded by kernel // 2 on every side, BatchNorm, and ReLU or none."""

    features: int
    kernel: int
    style: Style
    stride: int = 1
    activate: bool = True
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        init, dtype = KERNEL_INITS[self.style.init], self.style.dtype
        shape = self.features, self.kernel, self.stride
        x = Conv(*shape, self.use_bias, init, dtype, name="conv")(x)
        x = batch_norm(train, dtype=dtype, name="bn", momentum=MOMENTUM)(x)
        return relu(x) if self.activate else x


class MapsHead(nn.Module):
    """A head whose exit's gate may read the mean of every channel."""

    num_classes: int
    style: Style

    def features(self, carry: Maps) -> jax.Array:
        """Returns the means of all maps' channels, finest first, [B, D].

        Enlarging by whole factors leaves means as they are, so none is enlarged.
        """
        return jnp.concatenate([x.mean((1, 2)) for x in carry], axis=-1)

    def logits(self, x: jax.Array) -> jax.Array:
        init, dtype = KERNEL_INITS[self.style.init], self.style.dtype
        return Conv(self.num_classes, 1, 1, True, init, dtype, name="logits")(x)


class PlainHead(MapsHead):
    """1x1 convolution that keeps the channels, and the 1x1 to the logits: HRNetV2's."""

    @nn.compact
    def __call__(self, carry: Maps, train: bool = False) -> jax.Array:
        x = together(carry)
        mix = ConvNorm(x.shape[-1], 1, self.style, use_bias=True, name="mix")
        return self.logits(mix(x, train))


class RedesignedHead(MapsHead):
    """1x1 convolutions on maps halved ``depth`` times and enlarged as often again.

    An odd map is halved as if its last row or column were there twice, and what comes
    of that is cut off again where it is enlarged: any size of map will do, and even
    ones are treated as published.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, carry: Maps, train: bool = False) -> jax.Array:
        x, sizes = together(carry), []
        for i in range(self.depth):
            sizes.append(x.shape[1:3])
            mix = ConvNorm(self.width, 1, self.style, use_bias=True, name=f"down_{i}")
            x = mix(_halve(x), train)
        for i, (height, width) in enumerate(reversed(sizes)):
            x = enlarge(x, (2 * x.shape[1], 2 * x.shape[2]))[:, :height, :width]
            if i < self.depth - 1:
                mix = ConvNorm(self.width, 1, self.style, use_bias=True, name=f"up_{i}")
                x = mix(x, train)
        return self.logits(x)


def together(maps: Maps) -> jax.Array:
    """Returns all maps enlarged to the first and concatenated, ``[B, H, W, D]``."""
    size = maps[0].shape[1:3]
    return jnp.concatenate([enlarge(x, size) for x in maps], axis=-1)


def _halve(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels, of those there are at the end of an odd row or column."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    x = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3])
    return x.mean((2, 4))
