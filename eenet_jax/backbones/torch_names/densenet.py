"""PyTorch's names in DenseNets: EENet's, torchvision's (two spellings) and DenseNet-BC.

Only EENet's checkpoints hold early heads, and those are the convolutional ones.
"""

import dataclasses
import itertools
from collections.abc import Mapping

from eenet_jax.backbones.densenet import CifarStem
from eenet_jax.backbones.heads import ConvHead
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path

_LAYER = ("bn1", "conv1", "bn2", "conv2")


@dataclasses.dataclass(frozen=True)
class _Spelling:
    """Where our modules are found, with blocks, layers and exits filled in.

    ``{block}`` and ``{number}`` (of the layer in its block) count from 1, ``{layer}``
    and ``{exit}`` from 0. The keys of each mapping are our modules' names. Without
    ``early``, checkpoints hold no early heads.
    """

    stem: Mapping[str, str]
    layer: Mapping[str, str]
    transition: Mapping[str, str]
    last: Mapping[str, str]
    early: Mapping[str, str] | None = None


def _eenet(module: StagedModule, *, early: bool) -> _Spelling:
    plain = isinstance(module.stem, CifarStem)
    head = "ee_classifiers.{exit}."
    convs = {f"conv{i}": f"{head}{3 * i}" for i in range(3)}
    norms = {f"bn{i}": f"{head}{3 * i + 1}" for i in range(3)}
    return _Spelling(
        stem={"conv": "conv1"} if plain else {"conv": "conv1.0", "bn": "conv1.1"},
        layer={name: f"dense{{block}}.{{layer}}.{name}" for name in _LAYER},
        transition={"bn": "trans{block}.bn", "conv": "trans{block}.conv"},
        last={"bn": "bn", "linear": "linear"},
        early={**convs, **norms, "linear": f"{head}11"} if early else None,
    )


def _torchvision(dot: str) -> _Spelling:
    """Spells "norm1", or "norm.1" as the published ImageNet weights do."""
    layer = "features.denseblock{block}.denselayer{number}."
    return _Spelling(
        stem={"conv": "features.conv0", "bn": "features.norm0"},
        layer={
            "bn1": f"{layer}norm{dot}1",
            "conv1": f"{layer}conv{dot}1",
            "bn2": f"{layer}norm{dot}2",
            "conv2": f"{layer}conv{dot}2",
        },
        transition={
            "bn": "features.transition{block}.norm",
            "conv": "features.transition{block}.conv",
        },
        last={"bn": "features.norm5", "linear": "classifier"},
    )


_DENSENET_BC = _Spelling(
    stem={"conv": "conv1"},
    layer={name: f"block{{block}}.layer.{{layer}}.{name}" for name in _LAYER},
    transition={"bn": "trans{block}.bn1", "conv": "trans{block}.conv1"},
    last={"bn": "bn1", "linear": "fc"},
)


def eenet_naming(module: StagedModule) -> Naming:
    """Names the parts of a ``densenet121_4`` as EENet's code does."""
    return _naming(module, _eenet(module, early=True))


def single_exit_naming(module: StagedModule) -> Naming:
    """Names them the same where the checkpoint has no early exits."""
    return _naming(module, _eenet(module, early=False))


def torchvision_naming(module: StagedModule) -> Naming:
    """Names the parts of a ``densenet121`` as torchvision's code does."""
    return _naming(module, _torchvision(dot=""))


def old_torchvision_naming(module: StagedModule) -> Naming:
    """Names them as torchvision's published weights do: "norm.1" for "norm1"."""
    return _naming(module, _torchvision(dot="."))


def densenet_bc_naming(module: StagedModule) -> Naming:
    """Names the parts of a ``densenet_bc_40_12`` as in the published checkpoint."""
    return _naming(module, _DENSENET_BC)


def _naming(module: StagedModule, spelling: _Spelling) -> Naming:
    counts = [len(stage.blocks) for stage in module.stages]
    first_blocks = list(itertools.accumulate(counts, initial=1))
    last = len(module.stages) - 1

    def name(path: Path) -> str | None:
        part, *inner, leaf = path
        kind, _, k = part.partition("_")
        if kind == "stages":
            block, place, inner_name = inner
            number = first_blocks[int(k)] + int(block.removeprefix("blocks_"))
            if place == "transition":
                key = spelling.transition[inner_name].format(block=number)
            else:
                layer = int(place.removeprefix("layer"))
                key = spelling.layer[inner_name].format(
                    block=number, layer=layer, number=layer + 1
                )
        elif kind == "stem":
            key = spelling.stem[inner[0]]
        elif int(k) == last:
            key = spelling.last[inner[0]]
        elif spelling.early and isinstance(module.heads[int(k)], ConvHead):
            key = spelling.early[inner[0]].format(exit=k)
        else:
            return None
        return f"{key}.{LEAVES[leaf]}"

    return name


EENET = Format(
    eenet_naming, classes_key=r"(linear|ee_classifiers\.\d+\.11)\.(weight|bias)"
)
SINGLE_EXIT = Format(single_exit_naming, classes_key=r"linear\.(weight|bias)")
TORCHVISION = Format(torchvision_naming, classes_key=r"classifier\.(weight|bias)")
OLD_TORCHVISION = Format(
    old_torchvision_naming, classes_key=r"classifier\.(weight|bias)"
)
DENSENET_BC = Format(densenet_bc_naming, classes_key=r"fc\.(weight|bias)")
