"""A trained network's stages and last head under PyTorch's names.

In that form they do not depend on where the exits cut the network, so they also serve
a network with other exits.
"""

import jax
import numpy as np

from eenet_jax.backbones.from_torch import FORMATS
from eenet_jax.backbones.staged import Backbone, Variables
from eenet_jax.backbones.torch_names import torch_axes
from eenet_jax.errors import UserError


def single_exit(backbone: Backbone, variables: Variables) -> dict[str, np.ndarray]:
    """Returns the state dict of the network without its early exits.

    Args:
      backbone: The network.
      variables: Its variables.

    Returns:
      Arrays by PyTorch's keys, convolutions as OIHW and linear weights as [out, in].

    Raises:
      UserError: If PyTorch's names are not known for this network.
    """
    if backbone.name not in FORMATS:
        raise UserError(
            f"model.name={backbone.name!r} has no PyTorch names; there are some for "
            f"{', '.join(sorted(FORMATS))}"
        )
    naming = FORMATS[backbone.name][-1].naming(backbone.module)
    early = {f"heads_{k}" for k in range(backbone.num_exits - 1)}
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        names = tuple(entry.key for entry in path[1:])
        key = None if names[0] in early else naming(names)
        if key is not None:
            axes = torch_axes(leaf.ndim, names[-1])
            tensors[key] = np.asarray(leaf).transpose(axes)
    return tensors
