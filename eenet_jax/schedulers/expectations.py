"""Differentiable expectations over the distribution of a sample's exit.

With gates g_k in (0, 1): P_k = g_k prod_{j<k} (1 - g_j) for k < K-1, and the last exit
takes what is left (DESIGN section 3).
"""

import jax
import jax.numpy as jnp


def log_exit_distribution(gate_logits: jax.Array) -> jax.Array:
    """Computes log P from the logits of the gates.

    In log space throughout, so gradients stay finite at saturated gates.

    Args:
      gate_logits: Shape ``[K-1, ...]``; gate k is their sigmoid.

    Returns:
      Shape ``[K, ...]``; its exponential sums to 1 over the first axis.
    """
    leave = jax.nn.log_sigmoid(gate_logits)
    stay = jnp.cumsum(jax.nn.log_sigmoid(-gate_logits), axis=0)
    nothing = jnp.zeros_like(gate_logits[:1])
    reach = jnp.concatenate([nothing, stay])  # [K, ...]
    return reach + jnp.concatenate([leave, nothing])


def exit_distribution(gate_logits: jax.Array) -> jax.Array:
    """Computes P ``[K, ...]`` from gate logits ``[K-1, ...]``."""
    return jnp.exp(log_exit_distribution(gate_logits))


def expected(distribution: jax.Array, values: jax.Array) -> jax.Array:
    """Returns the mean over samples of sum_k P_k v_k.

    Args:
      distribution: P, shape ``[K, N]``.
      values: Losses, accuracies or costs, ``[K, N]``, or ``[K]`` for all samples alike.
    """
    if values.ndim == 1:
        return jnp.dot(jnp.mean(distribution, axis=1), values)
    return jnp.mean(jnp.sum(distribution * values, axis=0))
