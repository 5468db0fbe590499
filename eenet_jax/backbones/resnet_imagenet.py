"""ResNet-18, 34 and 50 with exits, as in torchvision (v1.5).

The stride of a bottleneck is on its 3x3 convolution, and shortcuts project where the
shape changes. An exit location counts the residual blocks before it.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.heads import LinearHead, build_head
from eenet_jax.backbones.layers import batch_norm, conv, relu
from eenet_jax.backbones.residual import BasicBlock, Bottleneck
from eenet_jax.backbones.resnet import Stem, block_specs, build_staged
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

# Residual blocks of each layer.
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STEMS = ("imagenet", "small")
WIDTH = 64


class ImageNetStem(nn.Module):
    """7x7 convolution of stride 2, BatchNorm, ReLU, and a 3x3 max pool of stride 2."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = conv(self.width, 7, stride=2, dtype=self.dtype, name="conv")(x)
        x = relu(batch_norm(train, dtype=self.dtype, name="bn")(x))
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def imagenet_resnet(
    num_classes: int,
    *,
    depth: int,
    exits: Sequence[int] | None = None,
    stem: str = "imagenet",
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds torchvision's ResNet with exits.

    Args:
      num_classes: C.
      depth: 18 or 34 (basic blocks) or 50 (bottlenecks).
      exits: Locations; by default the ends of the first three layers, (2, 4, 6) for
        ResNet-18 and (3, 7, 13) for the others.
      stem: "imagenet" (7x7 of stride 2 and max pool, for 224x224) or "small" (one 3x3
        of stride 1, for 32x32).
      head: Head of the early exits, "conv", "linear", "flat" or "residual".
      reduction: Of the conv head.
      dtype: Compute type.

    Raises:
      UserError: If depth, stem, head or exits are not possible.
    """
    if depth not in LAYERS:
        raise UserError(
            f"model.options.depth={depth} is unknown; choose from {tuple(LAYERS)}"
        )
    if stem not in STEMS:
        raise UserError(f"model.options.stem={stem!r} is unknown; choose from {STEMS}")
    lengths = LAYERS[depth]
    specs = block_specs(lengths, WIDTH)
    if depth >= 50:
        blocks = [Bottleneck(spec, dtype) for spec in specs]
    else:
        blocks = [BasicBlock(spec, "projection", dtype) for spec in specs]
    large = stem == "imagenet"
    return build_staged(
        ImageNetStem(WIDTH, dtype) if large else Stem(WIDTH, dtype),
        blocks,
        exits=tuple(itertools.accumulate(lengths[:-1])) if exits is None else exits,
        early_head=build_head(head, num_classes, reduction=reduction, dtype=dtype),
        last_head=LinearHead(num_classes, dtype),
        image_size=224 if large else 32,
    )


resnet18 = functools.partial(imagenet_resnet, depth=18)
resnet34 = functools.partial(imagenet_resnet, depth=34)
resnet50 = functools.partial(imagenet_resnet, depth=50)
