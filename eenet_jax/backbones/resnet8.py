"""ResNet-8 with two exits for 32x32 images, as in the repository earlyexitnet.

It reads pixels in [0, 1], not normalised further. An exit location counts the residual
blocks before it; the published network's early exit reads the stem.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.heads import LinearHead, MapHead
from eenet_jax.backbones.layers import Linear, batch_norm, biased_conv, conv, relu
from eenet_jax.backbones.residual import BlockSpec
from eenet_jax.backbones.resnet import block_specs, build_staged
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.vgg import adaptive_avg_pool

WIDTH = 16


class Stem(nn.Module):
    """3x3 convolution with bias, BatchNorm, ReLU."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = biased_conv(self.width, 3, dtype=self.dtype, name="conv")(x)
        return relu(batch_norm(train, dtype=self.dtype, name="bn")(x))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, all with bias.

    Where the shape changes, the shortcut is a 1x1 convolution without BatchNorm.
    """

    spec: BlockSpec
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        width, stride, dtype = self.spec.width, self.spec.stride, self.dtype
        y = biased_conv(width, 3, stride=stride, dtype=dtype, name="conv1")(x)
        y = relu(batch_norm(train, dtype=dtype, name="bn1")(y))
        y = biased_conv(width, 3, dtype=dtype, name="conv2")(y)
        y = batch_norm(train, dtype=dtype, name="bn2")(y)
        if stride != 1 or x.shape[-1] != width:
            shortcut = {"stride": stride, "dtype": dtype, "name": "shortcut_conv"}
            x = biased_conv(width, 1, **shortcut)(x)
        return relu(x + y)


class StridedHead(MapHead):
    """Two 3x3 convolutions of stride 2, an average to 4x4, and a linear layer.

    On a 32x32 map the average is the published 2x2 pool; on others the linear layer
    still fits.
    """

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        x = carry
        for i in range(2):
            x = conv(32, 3, stride=2, dtype=self.dtype, name=f"conv{i}")(x)
            x = relu(batch_norm(train, dtype=self.dtype, name=f"bn{i}")(x))
        x = adaptive_avg_pool(x, 4)
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # PyTorch's order: D, H, W
        return Linear(self.num_classes, self.dtype, name="linear")(x)


def resnet8_2ee(
    num_classes: int = 10,
    *,
    exits: Sequence[int] = (0,),
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds earlyexitnet's ResNet-8: three residual blocks, an exit after the stem.

    Args:
      num_classes: C.
      exits: Locations, 0 to 2.
      dtype: Compute type.

    Raises:
      UserError: If an exit is not possible.
    """
    return build_staged(
        Stem(WIDTH, dtype),
        [Block(spec, dtype) for spec in block_specs((1, 1, 1), WIDTH)],
        exits=exits,
        early_head=StridedHead(num_classes, dtype),
        last_head=LinearHead(num_classes, dtype),
    )
