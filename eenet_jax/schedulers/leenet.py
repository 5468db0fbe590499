"""LEENet's gates: one linear gate on each early exit's features."""

from collections.abc import Sequence

import numpy as np

from eenet_jax.schedulers.feature_gates import OPEN
from eenet_jax.schedulers.policy import Policy


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
