"""MSDNet with exits (Huang et al., ICLR 2018): dense layers over several scales.

The map of each scale has half the side of the one before. A layer appends channels to
every map it returns, and finer maps are dropped with depth. The carry is the tuple of
those still alive, finest first; exits read the coarsest, which all layers keep.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.layers import Conv, Linear, batch_norm, relu, uniform_fan_in
from eenet_jax.backbones.msdnet_plan import (
    BranchPlan,
    LayerPlan,
    Shape,
    TransitionPlan,
    check_choice,
    plan,
)
from eenet_jax.backbones.resnet import Segment
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

KERNEL_INITS = {
    "torch": uniform_fan_in,
    "msdnet": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}
IMAGE_SIZES = {"imagenet": 224, "cifar": 32, "tiny_imagenet": 64}  # by stem
SMALLEST_MAP = 5  # two convolutions of stride 2 and a pool of 2 leave one pixel

Maps = tuple[jax.Array, ...]


class ConvNorm(nn.Module):
    """Convolution padded by kernel // 2 on every side, BatchNorm, ReLU."""

    features: int
    kernel: int
    stride: int
    kernel_init: str
    dtype: Any
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        init = KERNEL_INITS[self.kernel_init]
        shape = self.features, self.kernel, self.stride
        x = Conv(*shape, self.use_bias, init, self.dtype, name="conv")(x)
        return relu(batch_norm(train, dtype=self.dtype, name="bn")(x))


class Stem(nn.Module):
    """From images to S maps: one layer of its ``kind``, then 3x3 of stride 2 each."""

    kind: str
    widths: tuple[int, ...]
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Maps:
        image, rest = x.shape, (self.kernel_init, self.dtype)
        if self.kind == "imagenet":
            first = ConvNorm(self.widths[0], 7, 2, *rest, True, name="scale_0")
            x = nn.max_pool(first(x, train), (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            stride = 1 if self.kind == "cifar" else 2
            x = ConvNorm(self.widths[0], 3, stride, *rest, name="scale_0")(x, train)
        maps = [x]
        for s, width in enumerate(self.widths[1:], 1):
            x = ConvNorm(width, 3, 2, *rest, name=f"scale_{s}")(x, train)
            maps.append(x)
        if min(x.shape[1:3]) < SMALLEST_MAP:
            raise UserError(
                f"model.options.scales={len(maps)} leaves {x.shape[1]}x{x.shape[2]} "
                f"maps of {image[1]}x{image[2]} images, but the classifiers need "
                f"{SMALLEST_MAP}x{SMALLEST_MAP}; choose fewer scales or larger images"
            )
        return tuple(maps)


class Branch(nn.Module):
    """1x1 convolution (where planned), then 3x3, both with BatchNorm and ReLU."""

    plan: BranchPlan
    stride: int
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        rest = (self.kernel_init, self.dtype)
        if self.plan.inner:
            x = ConvNorm(self.plan.inner, 1, 1, *rest, name="reduce")(x, train)
        return ConvNorm(self.plan.width, 3, self.stride, *rest, name="conv")(x, train)


class Layer(nn.Module):
    """Appends to each map that it returns what it makes of it and of the finer one."""

    plan: LayerPlan
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        rest = (self.kernel_init, self.dtype)
        dropped = len(maps) - len(self.plan.scales)
        grown = []
        for i, scale in enumerate(self.plan.scales):
            x = maps[dropped + i]
            parts = [x]
            if scale.down is not None:
                down = Branch(scale.down, 2, *rest, name=f"down_{i}")
                parts.append(down(maps[dropped + i - 1], train))
            normal = Branch(scale.normal, 1, *rest, name=f"normal_{i}")
            parts.append(normal(x, train))
            grown.append(jnp.concatenate(parts, axis=-1))
        return tuple(grown)


class Transition(nn.Module):
    """Narrows every map by a 1x1 convolution with BatchNorm and ReLU."""

    plan: TransitionPlan
    kernel_init: str
    dtype: Any

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        rest = (self.kernel_init, self.dtype)
        return tuple(
            ConvNorm(width, 1, 1, *rest, name=f"scale_{i}")(x, train)
            for i, (x, width) in enumerate(zip(maps, self.plan.widths, strict=True))
        )


class Classifier(nn.Module):
    """Two 3x3 convolutions of stride 2 on the coarsest map, pool, mean, linear."""

    num_classes: int
    width: int  # 0 keeps the map's channels
    kernel_init: str
    dtype: Any

    def features(self, carry: Maps) -> jax.Array:
        """Returns the coarsest map, [B, H, W, D]."""
        return carry[-1]

    def reads(self, carry: Maps) -> Maps:
        """Returns the coarsest map as the only one."""
        return carry[-1:]

    @nn.compact
    def __call__(self, carry: Maps, train: bool = False) -> jax.Array:
        x, rest = carry[-1], (self.kernel_init, self.dtype)
        width = self.width or x.shape[-1]
        for i in range(2):
            x = ConvNorm(width, 3, 2, *rest, name=f"conv_{i}")(x, train)
        x = nn.avg_pool(x, (2, 2), (2, 2)).mean((1, 2))  # [B, H, W, D] -> [B, D]
        return Linear(self.num_classes, self.dtype, name="linear")(x)


def msdnet(
    num_classes: int,
    *,
    exits: Sequence[int] | None = None,
    num_blocks: int = 5,
    base: int = 4,
    step: int = 2,
    step_mode: str = "even",
    scales: int = 3,
    growth_factors: tuple[int, ...] = (1, 2, 4),
    bottleneck_factors: tuple[int, ...] = (1, 2, 4),
    channels: int = 16,
    growth: int = 6,
    prune: str = "max",
    reduction: float = 0.5,
    bottleneck: bool = True,
    stem: str = "cifar",
    init: str = "torch",
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds an MSDNet; the defaults are the usual one for CIFAR.

    Args:
      num_classes: C.
      exits: Early exits, as numbers of blocks, 1 .. num_blocks - 1, after which they
        stand; by default after every block.
      num_blocks: Number of blocks.
      base: Layers of the first block.
      step: Layers of each later one, or their growth from block to block.
      step_mode: "even" (``step`` layers each) or "linear" (``step * i + 1`` in block i,
        counted from 0).
      scales: S, the number of maps after the stem.
      growth_factors: For each scale, what its channels are multiplied by.
      bottleneck_factors: For each scale, how many times as wide as its 3x3 convolution
        the 1x1 before it may be.
      channels: Base count of channels after the stem.
      growth: What each layer adds to the base count.
      prune: "max" drops the finest map at equal intervals, "min" only in the last
        layers, where it can no longer reach the last exit.
      reduction: Fraction of the channels that a transition keeps; 0 for none. They
        stand where "max" drops a map; with "min" after a third and two thirds.
      bottleneck: Whether 3x3 convolutions are preceded by 1x1 ones.
      stem: "imagenet" (7x7 and max pool, for 224 pixels), "cifar" (3x3, for 32) or
        "tiny_imagenet" (3x3 of stride 2, for 64).
      init: Of the convolutions: "torch" (as in the other networks) or "msdnet" (normal,
        variance 2 / (kernel height x kernel width x output channels)).
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible. Images too small for the
        number of scales are refused where the network is first applied.
    """
    check_choice("stem", stem, IMAGE_SIZES)
    check_choice("init", init, KERNEL_INITS)
    shape = Shape(
        num_blocks=num_blocks,
        base=base,
        step=step,
        step_mode=step_mode,
        scales=scales,
        growth_factors=growth_factors,
        bottleneck_factors=bottleneck_factors,
        channels=channels,
        growth=growth,
        prune=prune,
        reduction=reduction,
        bottleneck=bottleneck,
    )
    modules = [
        (Layer if isinstance(planned, LayerPlan) else Transition)(planned, init, dtype)
        for planned in plan(shape)
    ]
    exits = range(1, num_blocks) if exits is None else exits
    bounds = [0, *check_exits(exits, num_blocks, first=1), num_blocks]
    stages = tuple(
        Segment(tuple(m for m in modules if first <= m.plan.block < last))
        for first, last in itertools.pairwise(bounds)
    )
    widths = tuple(channels * factor for factor in growth_factors)
    width = 0 if stem == "imagenet" else 128
    heads = tuple(Classifier(num_classes, width, init, dtype) for _ in stages)
    side = IMAGE_SIZES[stem]
    return StagedModule(Stem(stem, widths, init, dtype), stages, heads, image_size=side)


cifar_msdnet = functools.partial(msdnet, stem="cifar")


def msdnet35_5(
    num_classes: int,
    *,
    exits: Sequence[int] | None = None,
    init: str = "torch",
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds EENet's MSDNet35-5 for ImageNet: 5 blocks of 7 layers, 4 scales."""
    return msdnet(
        num_classes,
        exits=exits,
        num_blocks=5,
        base=7,
        step=7,
        scales=4,
        growth_factors=(1, 2, 4, 4),
        bottleneck_factors=(1, 2, 4, 4),
        channels=32,
        growth=16,
        stem="imagenet",
        init=init,
        dtype=dtype,
    )
