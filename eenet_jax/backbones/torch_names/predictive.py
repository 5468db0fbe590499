"""Keys of Predictive Exit's networks (shared/BACKBONES.md 3.2, 3.3).

Heads that share a part share its tensors; heads with parts of their own take copies.
"""

import bisect
import itertools
from collections.abc import Callable

from eenet_jax.backbones.predictive import RESNET_LENGTHS
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path
from eenet_jax.backbones.vgg import ConvBlock

STEM = {"conv": "pre.0", "bn": "pre.1"}
SHORTCUT = {"shortcut_conv": "shortcut", "shortcut_bn": "bn3"}


def _naming(network: StagedModule, layer: Callable[[int, str], str]) -> Naming:
    """Joins a network's rule for its layers to a naming.

    Args:
      network: The network.
      layer: From a layer's index and a module in it to the module's key.
    """
    lengths = [len(stage.blocks) for stage in network.stages]
    first = tuple(itertools.accumulate(lengths[:-1], initial=0))
    last_head = f"heads_{len(network.heads) - 1}"

    def name(path: Path) -> str:
        part, *inner, module, leaf = path
        kind, _, number = part.partition("_")
        if kind == "stem":
            key = STEM[module]
        elif kind == "stages":
            index = first[int(number)] + int(inner[0].removeprefix("blocks_"))
            key = layer(index, module)
        elif part == last_head:
            key = "fc"
        else:
            field, *rest = path[1:-1]
            shared = getattr(network.heads[int(number)].parts, field)
            key = ".".join((shared, *rest))
        return f"{key}.{LEAVES.get(leaf, leaf)}"

    return name


def _vgg(network: StagedModule) -> Naming:
    """Keys ``conv{1..16}`` and ``bn{1..16}``."""
    layers = itertools.chain(*(stage.blocks for stage in network.stages))
    convs = [int(isinstance(layer, ConvBlock)) for layer in layers]
    numbers = tuple(itertools.accumulate(convs))
    return _naming(network, lambda index, module: f"{module}{numbers[index]}")


def _resnet(network: StagedModule) -> Naming:
    """Keys ``layer{s}_block{i}_conv{1,2}``, two layers of ours being one block."""
    starts = tuple(itertools.accumulate(RESNET_LENGTHS[:-1], initial=0))

    def layer(index: int, module: str) -> str:
        block = index // 2
        stage = bisect.bisect_right(starts, block)
        number = block - starts[stage - 1] + 1
        return f"layer{stage}_block{number}_{SHORTCUT.get(module, module)}"

    return _naming(network, layer)


CLASSES = r"fc\.(weight|bias)"
BAGS = r"(codebook\.(weight|bias)|a|c|n1|n2)"
# Of exits that the network does not have.
VGG19 = Format(
    _vgg, CLASSES, ignored=(rf"exit_\d\.{BAGS}", r"exit_\d_fc\.(weight|bias)")
)
RESNET34 = Format(
    _resnet,
    CLASSES,
    ignored=(rf"block\d_exit_\d\.{BAGS}", r"layer\d_exit_\d_fc\.(weight|bias)"),
)
FORMATS = {
    "predictive_vgg19": (VGG19,),
    "predictive_vgg19_stl10": (VGG19,),
    "predictive_resnet34": (RESNET34,),
}
