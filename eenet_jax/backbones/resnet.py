"""CIFAR ResNets with exits: basic blocks (He et al. 2016) and EENet's ResNet56-3.

An exit location L means "after the first L blocks"; the last exit follows the last
block and is not named. Stage k holds the blocks between exits k-1 and k.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.heads import LinearHead, build_head
from eenet_jax.backbones.layers import batch_norm, conv, relu
from eenet_jax.backbones.residual import BasicBlock, BlockSpec, Bottleneck
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

SHORTCUTS = ("identity", "projection")


class Stem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = conv(self.width, 3, dtype=self.dtype, name="conv")(x)
        return relu(batch_norm(train, dtype=self.dtype, name="bn")(x))


class Segment(nn.Module):
    """The blocks of one stage, in order."""

    blocks: tuple[nn.Module, ...]

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for block in self.blocks:
            x = block(x, train)
        return x


def resnet56_3(
    num_classes: int,
    *,
    exits: Sequence[int] = (9, 18),
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds EENet's ResNet56-3: [9, 9, 9] bottlenecks, exits after blocks 9 and 18."""
    blocks = [Bottleneck(spec, dtype) for spec in block_specs((9, 9, 9), 16)]
    return build_staged(
        Stem(16, dtype),
        blocks,
        exits=exits,
        early_head=build_head(head, num_classes, reduction=reduction, dtype=dtype),
        last_head=LinearHead(num_classes, dtype),
    )


def cifar_resnet(
    num_classes: int,
    *,
    depth: int,
    exits: Sequence[int] | None = None,
    width: int = 16,
    shortcut: str = "identity",
    head: str = "conv",
    reduction: int = 4,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds the CIFAR ResNet of He et al. (2016) with exits.

    Args:
      num_classes: C.
      depth: 6n + 2: three stages of n basic blocks.
      exits: Locations; by default the ends of the first and second stage, (n, 2n).
      width: Channels of the first stage; the later ones have 2 and 4 times as many.
      shortcut: "identity" (option A) or "projection" where the shape changes.
      head: Head of the early exits, "conv", "linear", "flat" or "residual".
      reduction: Of the conv head.
      dtype: Compute type.

    Raises:
      UserError: If depth, width, shortcut, head or exits are not possible.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UserError(
            f"model.options.depth={depth} must be 6n + 2 with n >= 1: 8, 14, 20, 26, "
            "32, 44, 56, 110, ..."
        )
    if width < 1:
        raise UserError(f"model.options.width={width} must be at least 1")
    if shortcut not in SHORTCUTS:
        raise UserError(
            f"model.options.shortcut={shortcut!r} is unknown; choose from {SHORTCUTS}"
        )
    n = (depth - 2) // 6
    specs = block_specs((n, n, n), width)
    return build_staged(
        Stem(width, dtype),
        [BasicBlock(spec, shortcut, dtype) for spec in specs],
        exits=(n, 2 * n) if exits is None else exits,
        early_head=build_head(head, num_classes, reduction=reduction, dtype=dtype),
        last_head=LinearHead(num_classes, dtype),
    )


def block_specs(lengths: Sequence[int], width: int) -> list[BlockSpec]:
    """Returns the blocks of layers of these lengths, in order.

    The first layer has the given width; each later one halves the map with its first
    block and doubles the width.
    """
    return [
        BlockSpec(width * 2**layer, 2 if layer > 0 and i == 0 else 1)
        for layer, length in enumerate(lengths)
        for i in range(length)
    ]


def build_staged(
    stem: nn.Module,
    blocks: Sequence[nn.Module],
    *,
    exits: Sequence[int],
    early_head: nn.Module,
    last_head: nn.Module,
    image_size: int = 32,
) -> StagedModule:
    """Cuts a chain of blocks into stages at its exits.

    Args:
      stem: What runs before the first block.
      blocks: All blocks, each called as ``block(x, train) -> x``.
      exits: Locations of the early exits, in blocks before the exit.
      early_head: Copied for every early exit.
      last_head: The network's own classifier.
      image_size: Side in pixels of the images it is meant for.

    Raises:
      UserError: If an exit is not possible.
    """
    exits = check_exits(exits, len(blocks))
    heads = (*(early_head.clone() for _ in exits), last_head)
    return StagedModule(stem, cut(blocks, exits), heads, image_size=image_size)


def cut(blocks: Sequence[nn.Module], exits: Sequence[int]) -> tuple[Segment, ...]:
    """Cuts a chain of blocks into the stages between its exits, the last one's too."""
    bounds = [0, *exits, len(blocks)]
    return tuple(Segment(tuple(blocks[a:b])) for a, b in itertools.pairwise(bounds))
