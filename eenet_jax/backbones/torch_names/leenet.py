"""Keys of LEENet's networks: the backbone's own, with modules wrapped by exits.

An exit stands in front of a module, say ``layer2``: the module's own weights are then
found under ``layer2.module``, the exit's under ``layer2.classifier`` and
``layer2.exit_gate``.
"""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import (
    LEAVES,
    Format,
    Naming,
    Path,
    densenet,
    resnet,
    vgg,
)

Wrapped = Callable[[StagedModule], tuple[str, ...]]


def exit_locations(module: StagedModule) -> tuple[int, ...]:
    """Returns how many blocks stand before each early exit."""
    lengths = [len(stage.blocks) for stage in module.stages]
    return tuple(itertools.accumulate(lengths[:-1]))


def _vgg(module: StagedModule, *, pool: str) -> tuple[str, ...]:
    """``features.{i}``, or what follows them: the average pool or the classifier."""
    entries = list(itertools.chain(*vgg.entries(module)))
    names = [f"features.{entry}" for entry in entries[:-1]] + [pool]
    return tuple(names[location] for location in exit_locations(module))


def _resnet(module: StagedModule) -> tuple[str, ...]:
    """``layer{n}``, or ``layer{n}.{i}`` where the exit stands inside of a layer."""
    cuts = resnet.find_cuts(module)
    places = [cuts.place(location) for location in cuts.exits]
    return tuple(
        f"layer{layer}" + (f".{index}" if index else "") for layer, index in places
    )


def _densenet(module: StagedModule) -> tuple[str, ...]:
    return tuple(f"dense{location + 1}" for location in exit_locations(module))


@dataclasses.dataclass(frozen=True)
class Leenet:
    """How LEENet's checkpoints of one architecture are spelt.

    Attributes:
      base: Of the network without exits.
      wrapped: From a network to the names of the modules that its exits stand before.
      prefix: Before every key: "model." as saved, or "".
    """

    base: Format
    wrapped: Wrapped
    prefix: str

    def format(self) -> Format:
        """Returns the format of the network and its exits' classifiers."""
        return Format(
            self._naming,
            rf"(?:model\.)?{self.base.classes_key}",
            ignored=(r".*\.exit_gate\.(weight|bias)",),
        )

    def gates(self, module: StagedModule) -> tuple[str, ...]:
        """Returns the keys of the early exits' gates, without ``.weight``."""
        names = self.wrapped(module)
        return tuple(f"{self.prefix}{_inside(n, names)}.exit_gate" for n in names)

    def _naming(self, module: StagedModule) -> Naming:
        plain, wrapped = self.base.naming(module), self.wrapped(module)

        def name(path: Path) -> str:
            key = plain(path)
            if key is not None:
                return self.prefix + _inside(key, wrapped)
            early = wrapped[int(path[0].removeprefix("heads_"))]
            head = f"{_inside(early, wrapped)}.classifier"
            return f"{self.prefix}{head}.{LEAVES[path[-1]]}"

        return name


def _inside(key: str, wrapped: tuple[str, ...]) -> str:
    """Returns where a key is found once modules are wrapped, one inside of another."""
    for name in sorted(wrapped, key=len, reverse=True):
        if key.startswith(f"{name}."):
            key = f"{name}.module{key.removeprefix(name)}"
    return key


def sizes_of(name: str, state_dict: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Reads off a checkpoint what it may have in several sizes: VGG's classifier.

    Returns:
      ``pool`` and ``hidden``; nothing for other networks and without a classifier.
    """
    for key, value in state_dict.items() if name == "leenet_vgg11_bn" else ():
        if re.fullmatch(r"(model\.)?classifier\.0\.(module\.)?weight", key):
            hidden, numbers = np.shape(value)
            return {"pool": math.isqrt(numbers // 512), "hidden": hidden}
    return {}


SPELLINGS = {
    "leenet_vgg11_bn": tuple(
        Leenet(vgg.TORCHVISION, functools.partial(_vgg, pool=pool), prefix)
        for pool in ("avgpool", "classifier.0")
        for prefix in ("", "model.")
    ),
    "leenet_resnet50": tuple(
        Leenet(resnet.TORCHVISION, _resnet, prefix) for prefix in ("", "model.")
    ),
    "leenet_densenet121": tuple(
        Leenet(densenet.SINGLE_EXIT, _densenet, prefix) for prefix in ("", "model.")
    ),
}
