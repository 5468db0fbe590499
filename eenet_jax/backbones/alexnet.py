"""A small AlexNet with exits, in BranchyNet's size for CIFAR-10.

An exit location counts the blocks before it. A block is one convolution with its ReLU,
or one pool: conv, pool, conv, pool, conv, conv, conv, pool, and the average pool before
the classifier, 9 in all.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.heads import build_head
from eenet_jax.backbones.layers import biased_conv, relu
from eenet_jax.backbones.resnet import build_staged
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.vgg import (
    AveragePool,
    Classifier,
    Images,
    MaxPool,
    check_sizes,
)

# Of each convolution: kernel, channels in multiples of the first's, max pool behind it.
LAYERS = ((5, 1, True), (5, 2, True), (3, 3, False), (3, 3, False), (3, 2, True))
POOLS = sum(pooled for _, _, pooled in LAYERS)


class ConvBlock(nn.Module):
    """Convolution with bias, ReLU."""

    width: int
    kernel: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = biased_conv(self.width, self.kernel, dtype=self.dtype, name="conv")(x)
        return relu(x)


def alexnet(
    num_classes: int,
    *,
    exits: Sequence[int] = (2, 4),
    width: int = 32,
    pool: int = 4,
    hidden: int = 256,
    dropout: float = 0.5,
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds an AlexNet for 32x32 images with exits.

    The convolutions are those of B-AlexNet for CIFAR-10 in BranchyNet's code
    (Teerapittayanon et al. 2016): kernels 5, 5, 3, 3, 3 and 32, 64, 96, 96, 64
    channels. Otherwise than there, the max pools are 2x2 (the maps have the same
    sizes), there is no local response normalisation, and both hidden layers of the
    classifier have the same width (there 256 and 128). Stages have no BatchNorm; of
    the heads, "conv" and "residual" have.

    Args:
      num_classes: C.
      exits: Locations; by default after every max pool but the last. B-AlexNet's
        branches follow the second and third convolution, (3, 5). 0 would read the
        image itself.
      width: Channels of the first convolution; the others have 2, 3, 3, 2 times as
        many.
      pool: The last map is averaged to pool x pool; 4 takes that of 32x32 images as
        it is.
      hidden: Width of the classifier's two hidden layers.
      dropout: Share of hidden units dropped in training, in [0, 1).
      head: Head of the early exits, "conv", "linear", "flat" or "residual".
      reduction: Of the conv head.
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible.
    """
    check_sizes(dropout, width=width, pool=pool, hidden=hidden)
    blocks: list[nn.Module] = []
    for kernel, multiple, pooled in LAYERS:
        blocks.append(ConvBlock(multiple * width, kernel, dtype))
        if pooled:
            blocks.append(MaxPool())
    blocks.append(AveragePool(pool))
    return build_staged(
        Images("AlexNet", POOLS),
        blocks,
        exits=exits,
        early_head=build_head(head, num_classes, reduction=reduction, dtype=dtype),
        last_head=Classifier(num_classes, hidden, dropout, dtype),
        image_size=2**POOLS * pool,
    )
