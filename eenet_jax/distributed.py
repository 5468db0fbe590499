"""The data mesh: how arrays lie on the devices, of this process and of others."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the one mesh of the project: all devices along an axis "data".

    The devices of a process stand side by side, so that each process has one piece of
    a batch, in the order of the processes.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: device.process_index)
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that spreads ``axis`` (the batch) over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA_AXIS))


def spread(shapes: Any, mesh: Mesh) -> Any:
    """Returns shardings that cut each array over the devices, none has it whole.

    An array is cut along the longest axis that the devices divide. Vectors, which are
    small, and arrays without such an axis stay whole.

    Args:
      shapes: Pytree of what has a shape.
      mesh: The devices.

    Returns:
      A ``NamedSharding`` for each leaf.
    """

    def sharding(leaf: Any) -> NamedSharding:
        even = [i for i, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if len(leaf.shape) < 2 or not even:
            return replicated(mesh)
        return batch_sharding(mesh, max(even, key=lambda i: leaf.shape[i]))

    return jax.tree.map(sharding, shapes)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays that every process has whole on the devices.

    Each process sends to its own devices, and only what they are to hold.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _put_global(leaf, sharding), tree)


def put_part(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays on the devices of which each process has its own part.

    Args:
      tree: Of each array what this process's devices are to hold, such as its rows of
        a batch.
      sharding: Of the whole.
    """
    return jax.make_array_from_process_local_data(sharding, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every array on every device."""
    return put(tree, replicated(mesh))


def to_host(tree: Any) -> Any:
    """Returns whole NumPy arrays in every process, of arrays spread over them all."""
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def compute_dtype(name: str) -> str:
    """Returns "float32" or "bfloat16"; "auto" is bfloat16 except on CPU."""
    if name != "auto":
        return name
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def _put_global(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.jit(_same, out_shardings=sharding)(leaf)
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def _same(array: jax.Array) -> jax.Array:
    return array
