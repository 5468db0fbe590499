"""PyTorch's names in MSDNets: those of the authors' code, which EENet's kept.

Layers and transitions are numbered together within their block, whichever exits the
network has; a block's classifier bears the block's number.
"""

from eenet_jax.backbones.msdnet_plan import LayerPlan
from eenet_jax.backbones.resnet import Segment
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path


def naming(module: StagedModule) -> Naming:
    """Names the parts of an MSDNet of any shape and with any exits."""

    def name(path: Path) -> str:
        part, *inner, leaf = path
        kind, _, k = part.partition("_")
        if kind == "stem":
            prefix = _in_stem(inner, module.stem.kind)
        elif kind == "stages":
            prefix = _in_stage(inner, module.stages[int(k)])
        else:
            prefix = _in_head(inner, module.stages[int(k)])
        return f"{prefix}.{LEAVES[leaf]}"

    return name


def _in_stem(inner: list[str], kind: str) -> str:
    scale, place = _number(inner[0]), _place(inner[-1])
    wrapped = "" if kind == "imagenet" and scale == 0 else "net."
    return f"blocks.0.0.layers.{scale}.{wrapped}{place}"


def _in_stage(inner: list[str], stage: Segment) -> str:
    layer, place, *convolution, part = inner
    plan, i = stage.blocks[_number(layer)].plan, _number(place)
    prefix = f"blocks.{plan.block}.{plan.position}"
    if not isinstance(plan, LayerPlan):
        return f"{prefix}.m.{i}.net.{_place(part)}"
    branch = place.removesuffix(f"_{i}")
    after = 3 if convolution == ["conv"] and plan.scales[i].normal.inner else 0
    return f"{prefix}.layers.{i}.conv_{branch}.net.{after + _place(part)}"


def _in_head(inner: list[str], stage: Segment) -> str:
    prefix = f"classifier.{stage.blocks[-1].plan.block}"
    if inner == ["linear"]:
        return f"{prefix}.linear"
    return f"{prefix}.m.{_number(inner[0])}.net.{_place(inner[-1])}"


def _number(name: str) -> int:
    """Returns the number behind a name, such as 3 of "layers_3"."""
    return int(name.rpartition("_")[2])


def _place(part: str) -> int:
    """Returns the place of a "conv" or "bn" in a sequence that ends with a ReLU."""
    return {"conv": 0, "bn": 1}[part]


# The switcher is dead code of EENet's. Classifiers of exits that the network was built
# without are of no use to it.
MSDNET = Format(
    naming,
    classes_key=r"classifier\.\d+\.linear\.(weight|bias)",
    ignored=(r"switcher\..*", r"classifier\..*"),
)
