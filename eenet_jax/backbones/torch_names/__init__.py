"""What our variables are called in PyTorch checkpoints, one file an architecture.

A naming maps the path of one of our leaves, without its collection, such as
``("stages_0", "blocks_3", "conv1", "kernel")``, to PyTorch's key, such as
``"layer1.3.conv1.weight"``; or to None where checkpoints of that format hold nothing
for it, as single-exit ones hold no early heads.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

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


def laid_out(value: np.ndarray, leaf_name: str) -> np.ndarray:
    """Turns PyTorch's axes into ours: OIHW to HWIO, [out, in] to [in, out]."""
    value = np.asarray(value, np.float32)
    if leaf_name == "kernel":
        value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
    return np.ascontiguousarray(value).reshape(value.shape)  # it makes [1] of []


def torch_shape(shape: tuple[int, ...], leaf_name: str) -> tuple[int, ...]:
    """Returns the shape that a leaf of ours has in PyTorch."""
    return tuple(shape[i] for i in torch_axes(len(shape), leaf_name))


def torch_axes(ndim: int, leaf_name: str) -> tuple[int, ...]:
    """Returns which axes of a leaf of ours PyTorch has, in order."""
    if leaf_name != "kernel":
        return tuple(range(ndim))
    return (3, 2, 0, 1) if ndim == 4 else (1, 0)
