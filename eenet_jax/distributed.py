"""The data mesh: how arrays lie on the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the one mesh of the project: all devices along an axis "data"."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that spreads ``axis`` (the batch) over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, replicated(mesh))


def compute_dtype(name: str) -> str:
    """Returns "float32" or "bfloat16"; "auto" is bfloat16 except on CPU."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
