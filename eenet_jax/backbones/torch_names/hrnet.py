"""Keys of HRNets: ADP-C's with exits, and those of HRNet's authors, with one or none.

Stage 1 is ``layer1``, the others ``stage2`` .. ``stage4``, each with the transition
before it, wherever the network's exits are. Wrappers that training scripts put around a
network add a prefix.
"""

import itertools
import re
from collections.abc import Callable

from eenet_jax.backbones.hrnet import STAGES
from eenet_jax.backbones.hrnet_heads import RedesignedHead
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path

PREFIXES = ("", "model.", "module.", "module.model.")
LAYERS = {
    **{f"conv{i}": (f"conv{i}", f"bn{i}") for i in (1, 2, 3)},
    "shortcut": ("downsample.0", "downsample.1"),
}
PLAIN_HEAD = {"mix": 0, "logits": 3}
# Of the loss's class weights; and of masks, without which the network is the same.
IGNORED = (r"(.*\.)?(loss|criterion)\..*", r".*\.(Lambda|square_dis)")

# Names what a head holds from the number of stages before it and the path in it.
HeadNaming = Callable[[int, list[str]], str | None]


def _naming(
    network: StagedModule, prefix: str, head: HeadNaming, masks: bool
) -> Naming:
    ends = stages_before(network)

    def name(path: Path) -> str | None:
        part, *inner, leaf = path
        if part == "lambdas":
            key = name((*inner, "kernel")) if masks else None
            return key and f"{key.removesuffix('weight')}Lambda"
        kind, _, k = part.partition("_")
        if kind == "stem":
            key = _layer(*inner)
        elif kind == "stages":
            before = ends[int(k) - 1] if int(k) else 0
            key = _in_stage(before + _numbers(inner[0])[0] + 1, inner[1:])
        else:
            key = head(ends[int(k)], inner)
        return None if key is None else f"{prefix}{key}.{LEAVES[leaf]}"

    return name


def stages_before(network: StagedModule) -> list[int]:
    """Returns how many of the four stages stand before each exit."""
    return list(itertools.accumulate(len(stage.blocks) for stage in network.stages))


def _in_stage(stage: int, inner: list[str]) -> str:
    kind, *rest = inner
    numbers, place = _numbers(kind), int(rest[-1] == "bn")
    if stage == 1:
        return f"layer1.{numbers[0]}.{_layer(*rest)}"
    if kind.startswith("transition"):
        deeper = ".0" if numbers[0] else ""  # a new map's layers are in a list
        return f"transition{stage - 1}.{numbers[0]}{deeper}.{place}"
    exchange, (kind, *rest) = f"stage{stage}.{numbers[0]}", rest
    where = ".".join(map(str, _numbers(kind)))
    if kind.startswith("branch"):
        return f"{exchange}.branches.{where}.{_layer(*rest)}"
    return f"{exchange}.fuse_layers.{where}.{place}"


def _layer(name: str, part: str) -> str:
    return LAYERS[name][part == "bn"]


def _exits(network: StagedModule) -> HeadNaming:
    """Names ``exit1`` .. ``exit3`` and ``last_layer``."""
    heads = dict(zip(stages_before(network), network.heads, strict=True))

    def name(stages: int, inner: list[str]) -> str:
        (layer, *part), head = inner, heads[stages]
        where = "last_layer" if stages == STAGES else f"exit{stages}"
        if not isinstance(head, RedesignedHead):
            place = PLAIN_HEAD[layer]
        elif layer == "logits":
            place = 8 * head.depth - 3
        else:  # four entries each: pool or enlarge, convolution, BatchNorm, ReLU
            shift = 0 if layer.startswith("down") else head.depth
            place = 4 * (shift + _numbers(layer)[0]) + 1
        return f"{where}.{place + (part == ['bn'])}"

    return name


def _last_exit(network: StagedModule) -> HeadNaming:
    exits = _exits(network)
    return lambda stages, inner: exits(stages, inner) if stages == STAGES else None


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _format(
    prefix: str,
    heads: Callable[[StagedModule], HeadNaming],
    *ignored: str,
    masks: bool = False,
) -> Format:
    return Format(
        lambda network: _naming(network, prefix, heads(network), masks),
        classes_key=rf"{re.escape(prefix)}last_layer\.3\.(weight|bias)",
        ignored=(*IGNORED, *ignored),
    )


# Exits that the network was built without are of no use to it.
_ADPC = [
    _format(p, _exits, rf"{re.escape(p)}exit\d\..*", masks=masks)
    for masks in (True, False)
    for p in PREFIXES
]
_IMAGENET = [
    _format(
        p,
        lambda network: lambda stages, inner: None,
        rf"{re.escape(p)}(incre_modules|downsamp_modules|final_layer|classifier)\..*",
    )
    for p in PREFIXES
]
# The last, without a prefix, is what a network's own stages are written as.
_SINGLE_EXIT = [_format(p, _last_exit) for p in reversed(PREFIXES)]
FORMATS = (*_ADPC, *_IMAGENET, *_SINGLE_EXIT)
