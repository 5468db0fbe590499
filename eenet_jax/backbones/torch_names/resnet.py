"""Keys of ResNets: EENet's, akamaster's for CIFAR, torchvision's, and ResNet-8's.

A layer is a run of blocks of one width (``layer1`` ..). In EENet's networks exits cut
layers into segments; in the others a block is found by its layer and its place there.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Callable, Mapping

from eenet_jax.backbones.heads import ConvHead
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path

STEM = {"conv": "conv1", "bn": "bn1"}
# Positions in the Sequential of an EENet head: three times conv, BN, ReLU; pool;
# flatten; linear.
EENET_HEAD = {
    **{f"conv{i}": str(3 * i) for i in range(3)},
    **{f"bn{i}": str(3 * i + 1) for i in range(3)},
    "linear": "11",
}
RESNET8_BLOCK = {
    "conv1": "0.0",
    "bn1": "0.1",
    "conv2": "0.3",
    "bn2": "0.4",
    "shortcut_conv": "1.0",
}
RESNET8_HEAD = {
    "conv0": "conv1.conv.0",
    "bn0": "conv1.conv.1",
    "conv1": "conv2.conv.0",
    "bn1": "conv2.conv.1",
    "linear": "linear.1",
}


@dataclasses.dataclass(frozen=True)
class _Cuts:
    """Where a network's exits and layers cut its chain of blocks.

    Attributes:
      stages: First block of each stage; from the second on, the exits' locations.
      layers: First block of each layer.
    """

    stages: tuple[int, ...]
    layers: tuple[int, ...]

    @property
    def exits(self) -> tuple[int, ...]:
        """Locations of the early exits."""
        return self.stages[1:]

    def place(self, block: int) -> tuple[int, int]:
        """Returns the number of a block's layer, from 1, and its index there."""
        layer = bisect.bisect_right(self.layers, block)
        return layer, block - self.layers[layer - 1]


def find_cuts(module: StagedModule) -> _Cuts:
    """Finds where a ResNet's exits and layers cut its chain of blocks."""
    lengths = [len(stage.blocks) for stage in module.stages]
    widths = [block.spec.width for stage in module.stages for block in stage.blocks]
    new = [a != b for a, b in itertools.pairwise([None, *widths])]
    return _Cuts(
        tuple(itertools.accumulate(lengths[:-1], initial=0)),
        tuple(block for block, first in enumerate(new) if first),
    )


def _naming(
    cuts: _Cuts,
    *,
    stem: Mapping[str, str] = STEM,
    block: Callable[[int, str], str],
    head: Callable[[int, str], str | None],
) -> Naming:
    """Joins the rules for a stem's, a block's and a head's modules to a naming."""

    def name(path: Path) -> str | None:
        part, *inner, module, leaf = path
        kind, _, number = part.partition("_")
        if kind == "stem":
            key = stem[module]
        elif kind == "stages":
            index = int(inner[0].removeprefix("blocks_"))
            key = block(cuts.stages[int(number)] + index, module)
        else:
            key = head(int(number), module)
        return None if key is None else f"{key}.{LEAVES[leaf]}"

    return name


def _shortcut(module: str, name: str) -> str:
    """Names a block's module: ``name.0`` and ``name.1`` in a projection shortcut."""
    return {"shortcut_conv": f"{name}.0", "shortcut_bn": f"{name}.1"}.get(
        module, module
    )


def _single_exit(shortcut: str, classifier: str) -> Callable[[StagedModule], Naming]:
    """Keys of networks with one exit: ``layer2.0.conv1``; early heads have none."""

    def build(network: StagedModule) -> Naming:
        cuts = find_cuts(network)

        def block(b: int, module: str) -> str:
            layer, index = cuts.place(b)
            return f"layer{layer}.{index}.{_shortcut(module, shortcut)}"

        def head(k: int, module: str) -> str | None:
            return None if k < len(cuts.exits) else classifier

        return _naming(cuts, block=block, head=head)

    return build


def _eenet(network: StagedModule) -> Naming:
    """Keys ``layer{layer}.{segment}.{index in it}`` and ``ee{layer}.{exit in it}``."""
    cuts = find_cuts(network)

    def block(b: int, module: str) -> str:
        layer, index = cuts.place(b)
        start = b - index
        passed = [location for location in cuts.exits if start <= location <= b]
        index = b - max([start, *passed])
        return f"layer{layer}.{len(passed)}.{index}.{_shortcut(module, 'shortcut')}"

    def head(k: int, module: str) -> str | None:
        if k == len(cuts.exits):
            return "linear"
        if not isinstance(network.heads[k], ConvHead):
            return None
        layers = [cuts.place(location)[0] for location in cuts.exits]
        return f"ee{layers[k]}.{layers[:k].count(layers[k])}.{EENET_HEAD[module]}"

    return _naming(cuts, block=block, head=head)


def _resnet8(network: StagedModule) -> Naming:
    cuts = find_cuts(network)

    def block(b: int, module: str) -> str:
        return f"backbone.{b}.layers.{RESNET8_BLOCK[module]}"

    def head(k: int, module: str) -> str:
        early = k < len(cuts.exits)
        return f"exits.{k}.{RESNET8_HEAD[module]}" if early else "end_layers.2"

    stem = {"conv": "init_conv.0", "bn": "init_conv.1"}
    return _naming(cuts, stem=stem, block=block, head=head)


EENET = Format(_eenet, r"(linear|ee\d+\.\d+\.11)\.(weight|bias)")
AKAMASTER = Format(_single_exit("shortcut", "linear"), r"linear\.(weight|bias)")
TORCHVISION = Format(_single_exit("downsample", "fc"), r"fc\.(weight|bias)")
RESNET8 = Format(
    _resnet8,
    r"(end_layers\.2|exits\.\d+\.(linear\.1|2))\.(weight|bias)",
    # The last exit's second name for end_layers.2.
    ignored=(r"exits\.\d+\.2\.(weight|bias)",),
)
