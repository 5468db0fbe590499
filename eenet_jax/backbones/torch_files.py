"""Reads the tensors of a PyTorch checkpoint into NumPy; PyTorch only for its own files.

``.npz`` and ``.safetensors`` need nothing of PyTorch; ``.pth``, ``.pt``, ``.th``,
``.tar`` and ``.bin`` are read by it, tensors only, never as Python objects. A directory
is taken for one of Hugging Face's.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays

TORCH_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".bin")
IN_DIRECTORY = ("model.safetensors", "pytorch_model.bin")
# Where training scripts put the state dict among other things.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")


def load_state_dict(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      path: An ``.npz``, ``.safetensors`` or PyTorch file, or a Hugging Face directory.

    Returns:
      Tensors by key; a prefix "module." that all keys share is dropped.

    Raises:
      UserError: If the file is missing, of another kind, or damaged.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        found = [path / name for name in IN_DIRECTORY if (path / name).is_file()]
        if not found:
            raise UserError(f"{path} holds none of {', '.join(IN_DIRECTORY)}")
        path = found[0]
    if not path.is_file():
        raise UserError(f"{path} is not there; give the checkpoint's path")
    if path.suffix == ".npz":
        tensors = load_arrays(path)
    elif path.suffix == ".safetensors":
        tensors = _safetensors(path)
    elif path.suffix in TORCH_SUFFIXES:
        tensors = _torch(path)
    else:
        raise UserError(
            f"{path} is no .npz, .safetensors or PyTorch file "
            f"({', '.join(TORCH_SUFFIXES)})"
        )
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): v for key, v in tensors.items()}
    return tensors


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        from safetensors.flax import load_file  # unlike safetensors.numpy, has bfloat16
    except ImportError:
        raise UserError(f"{path} needs: pip install safetensors") from None
    try:
        return {key: np.asarray(value) for key, value in load_file(path).items()}
    except Exception as error:  # SafetensorError, and others on a damaged file
        raise UserError(f"{path} cannot be read: {error}") from None


def _torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} can only be read by PyTorch, which is not installed: pip install "
            "torch, or save the tensors elsewhere as .safetensors or .npz"
        ) from None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has many ways to fail
        reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
        raise UserError(f"{path} cannot be read by torch.load: {reason}") from None
    for name in CONTAINERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Mapping):
            stored = stored[name]
            break
    if not isinstance(stored, Mapping):
        raise UserError(f"{path} holds a {type(stored).__name__}, not a state dict")
    return {key: _array(v) for key, v in stored.items() if hasattr(v, "numpy")}


def _array(tensor: Any) -> np.ndarray:
    """Returns a tensor's values; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
