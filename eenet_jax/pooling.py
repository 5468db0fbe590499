"""Pooling of maps to bins."""

import jax
import jax.numpy as jnp


def adaptive_avg_pool(x: jax.Array, size: int) -> jax.Array:
    """Averages maps over size x size bins, cut as PyTorch cuts them.

    Bin i of an axis of length H covers floor(i H / size) to ceil((i + 1) H / size), so
    that bins overlap where ``size`` does not divide H.

    Args:
      x: Maps, shape ``[B, H, W, D]``; H and W may be smaller than ``size``.
      size: Bins on either axis.

    Returns:
      Shape ``[B, size, size, D]``; ``x`` itself where it has that size.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length == size:
            continue
        edges = [
            (i * length // size, -(-(i + 1) * length // size)) for i in range(size)
        ]
        bins = [jax.lax.slice_in_dim(x, a, b, axis=axis) for a, b in edges]
        means = [jnp.mean(part, axis, keepdims=True) for part in bins]
        x = jnp.concatenate(means, axis)
    return x
