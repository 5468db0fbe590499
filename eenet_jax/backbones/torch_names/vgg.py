"""Keys of torchvision's VGGs with BatchNorm: ``features.{i}``, ``classifier.{i}``."""

import itertools

from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path
from eenet_jax.backbones.vgg import ConvBlock

# Entries of ``features`` that a convolution takes with its BatchNorm and ReLU, and
# the first two of them. A max pool takes one entry; the average pool is the last block.
CONV_ENTRIES = 3
MODULES = {"conv": 0, "bn": 1}
# ReLU and dropout stand between the linear layers.
CLASSIFIER = {"linear0": 0, "linear1": 3, "linear2": 6}


def entries(network: StagedModule) -> list[list[int]]:
    """Returns the entry of ``features`` at which each block of each stage begins."""
    sizes = [
        [CONV_ENTRIES if isinstance(block, ConvBlock) else 1 for block in stage.blocks]
        for stage in network.stages
    ]
    firsts = itertools.accumulate(itertools.chain(*sizes), initial=0)
    return [list(itertools.islice(firsts, len(stage))) for stage in sizes]


def _vgg(network: StagedModule) -> Naming:
    first = entries(network)
    last_head = f"heads_{len(network.heads) - 1}"

    def name(path: Path) -> str | None:
        part, *inner, module, leaf = path
        kind, _, number = part.partition("_")
        if kind == "stages":
            start = first[int(number)][int(inner[0].removeprefix("blocks_"))]
            key = f"features.{start + MODULES[module]}"
        elif part == last_head:
            key = f"classifier.{CLASSIFIER[module]}"
        else:
            return None
        return f"{key}.{LEAVES[leaf]}"

    return name


TORCHVISION = Format(_vgg, r"classifier\.6\.(weight|bias)")
