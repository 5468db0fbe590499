"""LEENet's gates: one linear gate on each early exit's features, and their loss."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from eenet_jax.schedulers.expectations import exit_distribution, expected
from eenet_jax.schedulers.feature_gates import OPEN
from eenet_jax.schedulers.policy import Policy


class GateLoss(NamedTuple):
    """The loss and its two weighted parts, which sum to it; scalars."""

    loss: jax.Array
    error: jax.Array
    cost: jax.Array


def gate_loss(
    gate_logits: jax.Array, losses: jax.Array, costs: jax.Array, alpha: jax.Array
) -> GateLoss:
    """Computes (1 - alpha) E[loss] + alpha E[cost] over where samples leave.

    The expectation is over P_k = g_k prod_{j<k} (1 - g_j), the rest going to the last
    exit, with gates g = sigmoid(logits) (BACKBONES 2.1). In log space, so gradients are
    finite where gates are 0 or 1.

    Args:
      gate_logits: ``[K - 1, N]``.
      losses: What each exit's answer loses, say its cross-entropy, ``[K, N]``.
      costs: Of leaving at each exit, ``[K]``; published from 0 to 1.
      alpha: In [0, 1]: the weight of cost.

    Returns:
      Means over the N samples.
    """
    exits = exit_distribution(gate_logits)
    error = (1 - alpha) * expected(exits, losses)
    cost = alpha * expected(exits, costs)
    return GateLoss(error + cost, error, cost)


def gate_policy(kind: str, weights: Sequence[np.ndarray], biases: np.ndarray) -> Policy:
    """Returns the policy of trained gates.

    Args:
      kind: What they read, one of ``feature_gates.INPUTS``.
      weights: For each early exit float32 ``[F_k]``.
      biases: float32 ``[K - 1]``.
    """
    params = {f"weight_{k}": weight for k, weight in enumerate(weights)}
    thresholds = np.array([OPEN] * len(weights) + [-np.inf], np.float32)
    return Policy(f"gate_{kind}", {**params, "bias": biases}, thresholds)
