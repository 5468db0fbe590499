"""The schedule of an MSDNet: which layer takes and returns which maps, and how wide.

Scale 0 is the finest of S. With n the base count of channels before a layer, the map of
scale s has n x growth_factors[s] channels; every layer adds ``growth`` to n.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence

from eenet_jax.errors import UserError

STEP_MODES = ("even", "linear")
PRUNES = ("max", "min")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The numbers that shape an MSDNet; ``msdnet.msdnet`` explains them."""

    num_blocks: int
    base: int
    step: int
    step_mode: str
    scales: int
    growth_factors: Sequence[int]
    bottleneck_factors: Sequence[int]
    channels: int
    growth: int
    prune: str
    reduction: float
    bottleneck: bool


@dataclasses.dataclass(frozen=True)
class BranchPlan:
    """A 3x3 convolution to ``width`` channels, after a 1x1 to ``inner`` (0: no 1x1)."""

    inner: int
    width: int


@dataclasses.dataclass(frozen=True)
class ScalePlan:
    """What a layer appends to one map: from the next finer map, if any, and from it."""

    down: BranchPlan | None
    normal: BranchPlan


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """One layer.

    Attributes:
      block: Block it belongs to, from 0.
      position: Its place in the block's list, where the stem takes place 0 of block 0.
      base: Base count n of channels before it.
      scales_in: Number of maps it takes, the coarsest ones.
      scales: What it appends to each map that it returns, finest first.
    """

    block: int
    position: int
    base: int
    scales_in: int
    scales: tuple[ScalePlan, ...]


@dataclasses.dataclass(frozen=True)
class TransitionPlan:
    """1x1 convolutions that narrow every map.

    Attributes:
      block: Block it belongs to, from 0.
      position: Its place in the block's list.
      base: Base count n of channels before it.
      widths: Channels that it leaves in each map, finest first.
    """

    block: int
    position: int
    base: int
    widths: tuple[int, ...]


def plan(shape: Shape) -> list[LayerPlan | TransitionPlan]:
    """Lays out all layers and transitions, in the order in which they run.

    Raises:
      UserError: If a number is not possible, alone or with the others.
    """
    _check(shape)
    lengths = _block_lengths(shape)
    total, number, base, steps = sum(lengths), 0, shape.channels, []
    for block, length in enumerate(lengths):
        position = 1 if block == 0 else 0
        for _ in range(length):
            number += 1
            layer = _layer(shape, block, position, base, number, total)
            steps.append(layer)
            position, base = position + 1, base + shape.growth
            if _narrows(shape, layer, number, total):
                reduced = math.floor(shape.reduction * base)
                if reduced == 0:
                    raise UserError(
                        f"model.options.reduction={shape.reduction} leaves no channel "
                        f"of the {base} after layer {number}; choose a larger one, or "
                        "more channels or growth"
                    )
                widths = shape.growth_factors[-len(layer.scales) :]
                widths = tuple(reduced * factor for factor in widths)
                steps.append(TransitionPlan(block, position, base, widths))
                position, base = position + 1, reduced
    return steps


def check_choice(field: str, value: str, choices: Collection[str]) -> None:
    """Refuses what is none of the choices.

    Raises:
      UserError: If ``value`` is not among ``choices``.
    """
    if value not in choices:
        raise UserError(
            f"model.options.{field}={value!r} is unknown; choose from {tuple(choices)}"
        )


def _block_lengths(shape: Shape) -> list[int]:
    """Layers of each block."""
    later = range(1, shape.num_blocks)
    if shape.step_mode == "even":
        return [shape.base, *(shape.step for _ in later)]
    return [shape.base, *(shape.step * i + 1 for i in later)]


def _layer(
    shape: Shape, block: int, position: int, base: int, number: int, total: int
) -> LayerPlan:
    """Plans layer ``number`` of 1 .. total."""

    def branch(source: int, width: int) -> BranchPlan:
        inner = width * shape.bottleneck_factors[source]
        inner = min(inner, base * shape.growth_factors[source])
        return BranchPlan(inner if shape.bottleneck else 0, width)

    def scale(s: int) -> ScalePlan:
        width = shape.growth * shape.growth_factors[s]
        if s == shape.scales - scales_in:  # no finer map comes in
            return ScalePlan(None, branch(s, width))
        return ScalePlan(branch(s - 1, width // 2), branch(s, width // 2))

    scales_in, scales_out = _num_scales(shape, number, total)
    scales = map(scale, range(shape.scales - scales_out, shape.scales))
    return LayerPlan(block, position, base, scales_in, tuple(scales))


def _num_scales(shape: Shape, number: int, total: int) -> tuple[int, int]:
    """Numbers of maps that layer ``number`` takes and returns."""
    if shape.prune == "min":
        left = total - number
        return min(shape.scales, left + 2), min(shape.scales, left + 1)
    interval = math.ceil(total / shape.scales)
    dropped = max(0, number - 2) // interval, (number - 1) // interval
    return shape.scales - dropped[0], shape.scales - dropped[1]


def _narrows(shape: Shape, layer: LayerPlan, number: int, total: int) -> bool:
    """Says whether a transition follows the layer."""
    if shape.reduction == 0:
        return False
    if shape.prune == "max":
        return layer.scales_in > len(layer.scales)
    return number in (total // 3, 2 * total // 3)


def _check(shape: Shape) -> None:
    for field in ("num_blocks", "base", "step", "scales", "channels", "growth"):
        if getattr(shape, field) < 1:
            raise UserError(
                f"model.options.{field}={getattr(shape, field)} must be at least 1"
            )
    check_choice("step_mode", shape.step_mode, STEP_MODES)
    check_choice("prune", shape.prune, PRUNES)
    for field in ("growth_factors", "bottleneck_factors"):
        factors = getattr(shape, field)
        if len(factors) != shape.scales:
            raise UserError(
                f"model.options.{field}={factors} has {len(factors)} entries, but "
                f"model.options.scales={shape.scales}; give one factor a scale"
            )
        if any(type(factor) is not int or factor < 1 for factor in factors):
            raise UserError(
                f"model.options.{field}={factors} must be whole numbers from 1"
            )
    for s, factor in enumerate(shape.growth_factors):
        if s > 0 and shape.growth * factor % 2:
            raise UserError(
                f"model.options.growth={shape.growth} x growth_factors[{s}]={factor} "
                "must be even, for it is split in two halves; change either"
            )
    if not 0 <= shape.reduction <= 1:
        raise UserError(
            f"model.options.reduction={shape.reduction} must be in [0, 1]; "
            "0 builds no transitions"
        )
    total = sum(_block_lengths(shape))
    if total < shape.scales:
        raise UserError(
            f"model.options.scales={shape.scales} needs as many layers, but base, step "
            f"and num_blocks give {total}; choose fewer scales or more layers"
        )
