"""Gates that read an exit's features, as LEENet's do: their inputs and their score."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.pooling import adaptive_avg_pool
from eenet_jax.prediction_checks import GATE_INPUTS

BINS = 2  # on either axis, of "bins"
# A sample leaves where sigmoid(w . x + b) is above one half.
OPEN = np.nextafter(np.float32(0.5), np.float32(1))


def _flat(x: jax.Array) -> jax.Array:
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # PyTorch's order: D, H, W


def _average(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def _max(x: jax.Array) -> jax.Array:
    return x.max((1, 2))


def _both(x: jax.Array) -> jax.Array:
    return jnp.concatenate([_average(x), _max(x)], axis=-1)


def _bins(x: jax.Array) -> jax.Array:
    return adaptive_avg_pool(x, BINS).reshape(len(x), -1)


# From a map [B, H, W, D] to numbers [B, F]: all of them, the published form (F is
# D H W); averages or maxima over the map (D); both (2 D); averages over its quarters,
# which share a row or column where there is an odd number (4 D).
INPUTS = dict(zip(GATE_INPUTS, (_flat, _average, _max, _both, _bins), strict=True))


def gate_inputs(kind: str, features: jax.Array) -> jax.Array:
    """Returns what a gate reads of an exit's features.

    Args:
      kind: One of ``INPUTS``.
      features: Maps ``[B, H, W, D]``; or ``[B, F]``, which are taken as they are: a
        text's pooled state, or inputs that were made of maps before.

    Returns:
      float32 ``[B, F]``.

    Raises:
      UserError: If there is no such kind.
    """
    if kind not in INPUTS:
        raise UserError(f"gates.inputs={kind!r} is unknown; choose from {[*INPUTS]}")
    features = features.astype(jnp.float32)
    return features if features.ndim == 2 else INPUTS[kind](features)


def gate_score(params: dict[str, Any], k: int, x: jax.Array) -> jax.Array:
    """Returns how open gate ``k`` is, in [0, 1].

    Args:
      params: ``weight_k`` ``[F_k]`` for every early exit, and ``bias`` ``[K - 1]``.
      k: Exit, 0-based, not the last.
      x: What it reads, ``[B, F_k]``.

    Returns:
      float32 ``[B]``.
    """
    weight = params[f"weight_{k}"]
    if x.shape[1:] != weight.shape:
        raise UserError(
            f"gate {k} reads {len(weight)} numbers, the exit offers {x.shape[1]}; fit "
            "gates on features of this network"
        )
    return jax.nn.sigmoid(x @ weight + params["bias"][k])
