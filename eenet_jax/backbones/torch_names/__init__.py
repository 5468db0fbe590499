"""What our variables are called in PyTorch checkpoints, one file an architecture.

A naming maps the path of one of our leaves, without its collection, such as
``("stages_0", "blocks_3", "conv1", "kernel")``, to PyTorch's key, such as
``"layer1.3.conv1.weight"``; or to None where checkpoints of that format hold nothing
for it, as single-exit ones hold no early heads.
"""

import dataclasses
from collections.abc import Callable

from eenet_jax.backbones.staged import StagedModule

Path = tuple[str, ...]
Naming = Callable[[Path], str | None]
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """A checkpoint format of one architecture.

    Attributes:
      naming: From a network to its naming.
      classes_key: Regular expression of the keys whose tensors have C as first axis.
      ignored: Regular expressions of keys that hold no weights of the network.
    """

    naming: Callable[[StagedModule], Naming]
    classes_key: str
    ignored: tuple[str, ...] = ()
