"""VGG-11 and VGG-19 with BatchNorm and exits, as in torchvision.

An exit location counts the blocks before it. A block is one convolution with its
BatchNorm and ReLU, or one pool: 14 blocks in VGG-11, 22 in VGG-19, the last of which
is the average pool before the classifier.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.heads import MapHead, build_head
from eenet_jax.backbones.layers import Linear, batch_norm, biased_conv, relu
from eenet_jax.backbones.resnet import build_staged
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError
from eenet_jax.pooling import adaptive_avg_pool

WIDTHS = (64, 128, 256, 512, 512)
# Convolutions before each of the five max pools.
LENGTHS = {11: (1, 1, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
SMALLEST = 32  # pixels that the five max pools leave one of


class Images(nn.Module):
    """Passes images on that are large enough, where a network has no other stem.

    Attributes:
      network: Its name, for the message.
      pools: Max pools of 2x2 that it has.
    """

    network: str
    pools: int

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        smallest = 2**self.pools
        if min(height, width) < smallest:
            raise UserError(
                f"images of {height}x{width} pixels are too small for {self.network}'s "
                f"{self.pools} max pools; use images of at least {smallest}x{smallest}"
            )
        return x


class ConvBlock(nn.Module):
    """3x3 convolution with bias, BatchNorm, ReLU."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = biased_conv(self.width, 3, dtype=self.dtype, name="conv")(x)
        return relu(batch_norm(train, dtype=self.dtype, name="bn")(x))


class MaxPool(nn.Module):
    """2x2 max pool; the last of an odd number of rows or columns is dropped."""

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return nn.max_pool(x, (2, 2), (2, 2))


class AveragePool(nn.Module):
    """Averages a map to size x size bins."""

    size: int

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return adaptive_avg_pool(x, self.size)


class Classifier(MapHead):
    """VGG's classifier: three linear layers with dropout between them."""

    num_classes: int
    hidden: int
    dropout: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, carry: jax.Array, train: bool = False) -> jax.Array:
        x = carry.transpose(0, 3, 1, 2)  # PyTorch's order: D, H, W
        x = x.reshape(x.shape[0], -1)
        for i in range(2):
            x = relu(Linear(self.hidden, self.dtype, name=f"linear{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return Linear(self.num_classes, self.dtype, name="linear2")(x)


def check_sizes(dropout: float = 0.0, **sizes: int) -> None:
    """Refuses a dropout that is no share and sizes below 1, naming the option."""
    for name, value in sizes.items():
        if value < 1:
            raise UserError(f"model.options.{name}={value} must be at least 1")
    if not 0 <= dropout < 1:
        raise UserError(f"model.options.dropout={dropout} must be in [0, 1)")


def vgg_bn(
    num_classes: int,
    *,
    depth: int,
    exits: Sequence[int] | None = None,
    pool: int = 7,
    hidden: int = 4096,
    dropout: float = 0.5,
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds torchvision's VGG with BatchNorm and exits.

    For 32x32 images, ``pool=1`` takes the last map (512 numbers) as it is; with
    ``hidden=512`` the classifier has 0.5 M parameters instead of 19 M.

    Args:
      num_classes: C.
      depth: 11 or 19.
      exits: Locations; by default after every max pool but the last, (2, 4, 7, 10) for
        VGG-11 and (3, 6, 11, 16) for VGG-19. 0 would read the image itself.
      pool: The last map is averaged to pool x pool; 7 suits 224x224 images.
      hidden: Width of the classifier's two hidden layers.
      dropout: Share of hidden units dropped in training, in [0, 1).
      head: Head of the early exits, "conv", "linear", "flat" or "residual".
      reduction: Of the conv head.
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible.
    """
    if depth not in LENGTHS:
        raise UserError(
            f"model.options.depth={depth} is unknown; choose from {tuple(LENGTHS)}"
        )
    check_sizes(dropout, pool=pool, hidden=hidden)
    lengths = LENGTHS[depth]
    blocks: list[nn.Module] = []
    for width, length in zip(WIDTHS, lengths, strict=True):
        blocks += [*(ConvBlock(width, dtype) for _ in range(length)), MaxPool()]
    blocks.append(AveragePool(pool))
    after_pools = tuple(itertools.accumulate(length + 1 for length in lengths[:-1]))
    return build_staged(
        Images("VGG", len(WIDTHS)),
        blocks,
        exits=after_pools if exits is None else exits,
        early_head=build_head(head, num_classes, reduction=reduction, dtype=dtype),
        last_head=Classifier(num_classes, hidden, dropout, dtype),
        image_size=SMALLEST * pool,
    )


vgg11_bn = functools.partial(vgg_bn, depth=11)
vgg19_bn = functools.partial(vgg_bn, depth=19)


def leenet_vgg11_bn(
    num_classes: int,
    *,
    exits: Sequence[int] = (4, 7, 10, 13),
    pool: int = 1,
    hidden: int = 4096,
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds LEENet's VGG-11: linear exits on the maps behind pools 2 to 5.

    For CIFAR-10 it has ``hidden=4096``, an older copy ``pool=7`` too, for CIFAR-100
    ``hidden=512``. Arguments and errors are those of ``vgg_bn``.
    """
    sizes = {"pool": pool, "hidden": hidden, "dropout": dropout}
    return vgg_bn(num_classes, depth=11, exits=exits, head="flat", dtype=dtype, **sizes)
