"""What a network of maps would cost if its decided pixels were left out (ADP-C)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from eenet_jax.backbones.hrnet_masked import Masked, is_convolution, undecided
from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError

TAPS = 49  # of the 7x7 filter that fills decided pixels in


@dataclasses.dataclass(frozen=True)
class MapConv:
    """A convolution as one sample runs it.

    Attributes:
      path: Of its module.
      exit: Stage and head that it belongs to; the stem's are of exit 0.
      size: Height and width of its output.
      channels: Of its output.
      macs: Multiply-adds, with every pixel computed.
    """

    path: tuple[str, ...]
    exit: int
    size: tuple[int, int]
    channels: int
    macs: int


def map_convs(backbone: Backbone, variables: Any, x: Any) -> list[MapConv]:
    """Lists the convolutions of stem, stages and heads in the order they run.

    Args:
      backbone: The network.
      variables: Its variables, or their shapes.
      x: Inputs, or their shapes.
    """
    found = []

    def note(next_fn, args, kwargs, context):
        y = next_fn(*args, **kwargs)
        if is_convolution(context):
            path, kernel = context.module.path, context.module.kernel
            part, _, k = path[0].partition("_")
            macs = math.prod(y.shape[1:]) * kernel**2 * args[0].shape[-1]
            k = 0 if part == "stem" else int(k)
            found.append(MapConv(path, k, y.shape[1:3], y.shape[3], macs))
        return y

    with nn.intercept_methods(note):
        jax.eval_shape(lambda v, x: backbone.module.apply(v, x), variables, x)
    return found


def masked_macs(
    backbone: Backbone,
    variables: Any,
    x: Any,
    logits: jax.Array,
    convs: Sequence[MapConv] | None = None,
) -> np.ndarray:
    """Counts each sample's multiply-adds up to every exit, decided pixels left out.

    A convolution that computes a share p of its pixels counts p times its multiply-adds
    and, for filling in, (1 - p) p * 49 times the size of its output (BACKBONES 4.4).

    Args:
      backbone: A masked network.
      variables: Its variables, or their shapes.
      x: Inputs, or their shapes, ``[B, H, W, 3]``.
      logits: What the network gave for them, ``[K, B, h, w, C]``.
      convs: What ``map_convs`` lists for inputs of this size, to save listing it anew.

    Returns:
      Multiply-adds, float64 ``[K, B]``, cumulative and with all heads so far.

    Raises:
      UserError: If the network has no masks.
    """
    module = backbone.module
    if not isinstance(module, Masked):
        raise UserError(
            f"model.name={backbone.name!r} leaves out no pixels: set "
            "model.options.mask to 'confidence' or 'entropy'"
        )
    shares: dict[tuple[int, tuple[int, int]], np.ndarray] = {}
    total = np.zeros((backbone.num_exits, logits.shape[1]))
    for conv in map_convs(backbone, variables, x) if convs is None else convs:
        if conv.exit == 0:
            total[0] += conv.macs
            continue
        where = conv.exit, conv.size
        if where not in shares:
            before = logits[conv.exit - 1]
            mask = undecided(before, module.mask, module.threshold, conv.size)
            shares[where] = np.asarray(mask, np.float64).mean((1, 2))
        p = shares[where]
        filling = TAPS * conv.channels * math.prod(conv.size)
        total[conv.exit] += p * conv.macs + (1 - p) * p * filling
    return np.cumsum(total, axis=0)
