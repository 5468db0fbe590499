"""HRNetV2 for dense prediction, with exits after its four stages (ADP-C).

Maps of several scales run beside each other, each with half the side of the one before,
and exchange what they hold. The carry is the tuple of them, finest first; the finest
has a quarter of the image's side (rounded up), and so have the logits, which are
``[K, B, H / 4, W / 4, C]``. Enlarging those to the labels is up to loss and metric.

Images may have any size. Sides that are multiples of 32 give whole factors throughout
and exactly the published network. At others too a coarse map is stretched to the finer
one's size, as published; only the redesigned heads were not made for them (see there).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.hrnet_heads import (
    HEADS,
    KERNEL_INITS,
    ConvNorm,
    Maps,
    PlainHead,
    RedesignedHead,
    Style,
)
from eenet_jax.backbones.hrnet_masked import MASKS, Masked
from eenet_jax.backbones.layers import relu
from eenet_jax.backbones.resize import enlarge
from eenet_jax.backbones.resnet import cut
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

STAGES = 4


@dataclasses.dataclass(frozen=True)
class Size:
    """One published size of the network.

    Attributes:
      bottlenecks: Blocks of stage 1.
      exchanges: Of stages 2, 3 and 4: how many exchanges, each of how many blocks.
      width: Channels of the finest map; each coarser one has twice as many.
      head_width: Channels inside the redesigned heads.
    """

    bottlenecks: int
    exchanges: tuple[tuple[int, int], ...]
    width: int
    head_width: int


SIZES = {
    "w18s": Size(2, ((1, 2), (3, 2), (2, 2)), 18, 64),
    "w18": Size(4, ((1, 4), (4, 4), (3, 4)), 18, 64),
    "w48": Size(4, ((1, 4), (4, 4), (3, 4)), 48, 128),
}


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2."""

    width: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Maps:
        for i in (1, 2):
            x = ConvNorm(self.width, 3, self.style, 2, name=f"conv{i}")(x, train)
        return (x,)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 to four times the width; the shortcut projects where it must."""

    width: int
    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        layer = functools.partial(ConvNorm, style=self.style)
        y = layer(self.width, 1, name="conv1")(x, train)
        y = layer(self.width, 3, name="conv2")(y, train)
        y = layer(4 * self.width, 1, activate=False, name="conv3")(y, train)
        if x.shape[-1] != 4 * self.width:
            x = layer(4 * self.width, 1, activate=False, name="shortcut")(x, train)
        return relu(y + x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity."""

    style: Style

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        width = x.shape[-1]
        y = ConvNorm(width, 3, self.style, name="conv1")(x, train)
        y = ConvNorm(width, 3, self.style, activate=False, name="conv2")(y, train)
        return relu(y + x)


class FirstStage(nn.Module):
    """Bottlenecks on the one map of the stem."""

    bottlenecks: int
    width: int
    style: Style

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        (x,) = maps
        for i in range(self.bottlenecks):
            x = Bottleneck(self.width, self.style, name=f"block_{i}")(x, train)
        return (x,)


class Exchange(nn.Module):
    """Basic blocks on every map; then every map becomes a sum over all of them."""

    blocks: int
    style: Style

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        worked = []
        for i, x in enumerate(maps):
            for b in range(self.blocks):
                x = BasicBlock(self.style, name=f"branch_{i}_{b}")(x, train)
            worked.append(x)
        fused = []
        for i in range(len(worked)):
            parts = [self._moved(worked, j, i, train) for j in range(len(worked))]
            fused.append(relu(sum(parts[1:], parts[0])))
        return tuple(fused)

    def _moved(self, maps: list[jax.Array], j: int, i: int, train: bool) -> jax.Array:
        """Brings map j to the scale and width of map i."""
        x, target = maps[j], maps[i]
        layer = functools.partial(ConvNorm, style=self.style)
        if j > i:
            mix = layer(target.shape[-1], 1, activate=False, name=f"up_{i}_{j}")
            return enlarge(mix(x, train), target.shape[1:3])
        for step in range(i - j):
            last = step == i - j - 1
            width = (target if last else x).shape[-1]
            name = f"down_{i}_{j}_{step}"
            x = layer(width, 3, stride=2, activate=not last, name=name)(x, train)
        return x


class Stage(nn.Module):
    """A new coarsest map, then exchanges among all."""

    exchanges: int
    blocks: int
    width: int
    style: Style

    @nn.compact
    def __call__(self, maps: Maps, train: bool = False) -> Maps:
        layer = functools.partial(ConvNorm, style=self.style)
        coarse = self.width * 2 ** len(maps)
        new = layer(coarse, 3, stride=2, name=f"transition_{len(maps)}")
        new = new(maps[-1], train)
        if len(maps) == 1:
            maps = (layer(self.width, 3, name="transition_0")(maps[0], train),)
        maps = (*maps, new)
        for m in range(self.exchanges):
            exchange = Exchange(self.blocks, self.style, name=f"exchange_{m}")
            maps = exchange(maps, train)
        return maps


def hrnet(
    num_classes: int,
    *,
    size: str,
    exits: Sequence[int] | None = None,
    width: int = 0,
    stem_width: int = 64,
    head_width: int = 0,
    heads: str = "redesigned",
    init: str = "published",
    mask: str = "none",
    mask_threshold: float = 0.998,
    learn_lambda: bool = False,
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds HRNetV2 with exits.

    Args:
      num_classes: C.
      size: "w18s" (W18-small, v2), "w18" or "w48".
      exits: Early exits, as numbers of stages before them; by default (1, 2, 3).
      width: Channels of the finest map, each coarser one having twice as many; 0 for
        those published, 18 or 48.
      stem_width: Channels of the stem and inside stage 1, which ends with four times as
        many.
      head_width: Channels inside redesigned heads; 0 for those published, 64 or 128.
      heads: Of the early exits: "redesigned" (on maps halved three times after stage 1,
        twice after stage 2, once after stage 3) or "plain" as the last.
      init: Of the convolutions: "published" (normal, standard deviation 0.001, for
        pretrained backbones) or "he" (normal, variance 2 / fan-in).
      mask: "none", or what decides pixels at an exit, which are then masked up to the
        next: "confidence" or "entropy" (``hrnet_masked``).
      mask_threshold: For that: a probability, or an entropy in nats.
      learn_lambda: Whether masked convolutions learn how far they are filled in from.
      dtype: Compute type.

    Raises:
      UserError: If an option or an exit is not possible.
    """
    for name, value in {"width": width, "head_width": head_width}.items():
        if value < 0:
            raise UserError(
                f"model.options.{name}={value} must be at least 1, or 0 for the "
                "published"
            )
    if stem_width < 1:
        raise UserError(f"model.options.stem_width={stem_width} must be at least 1")
    for name, value, known in (
        ("heads", heads, HEADS),
        ("init", init, tuple(KERNEL_INITS)),
        ("mask", mask, ("none", *MASKS)),
    ):
        if value not in known:
            raise UserError(
                f"model.options.{name}={value!r} is unknown; choose from {known}"
            )
    if mask_threshold < 0 or (mask == "confidence" and mask_threshold > 1):
        raise UserError(
            f"model.options.mask_threshold={mask_threshold} must be a probability for "
            "mask='confidence' and at least 0 for mask='entropy'"
        )
    if learn_lambda and mask == "none":
        raise UserError(
            "model.options.learn_lambda=True is for masked networks; set "
            "model.options.mask to 'confidence' or 'entropy'"
        )
    exits = (1, 2, 3) if exits is None else exits
    exits = check_exits(exits, STAGES, first=1, what="stage")
    published, style = SIZES[size], Style(init, dtype)
    stages = [
        FirstStage(published.bottlenecks, stem_width, style),
        *(
            Stage(*shape, width or published.width, style)
            for shape in published.exchanges
        ),
    ]
    plain = PlainHead(num_classes, style)
    redesigned = functools.partial(
        RedesignedHead, num_classes, style, head_width or published.head_width
    )
    early = [
        redesigned(STAGES - location) if heads == "redesigned" else plain.clone()
        for location in exits
    ]
    parts = Stem(stem_width, style), cut(stages, exits), (*early, plain)
    kinds = {"output_kind": "map", "image_size": 128}
    if mask == "none":
        return StagedModule(*parts, **kinds)
    masks = {"threshold": mask_threshold, "learn_lambda": learn_lambda}
    return Masked(*parts, **kinds, mask=mask, **masks)


hrnet_w18s = functools.partial(hrnet, size="w18s")
hrnet_w18 = functools.partial(hrnet, size="w18")
hrnet_w48 = functools.partial(hrnet, size="w48")
