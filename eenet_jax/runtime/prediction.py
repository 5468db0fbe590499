"""What running a policy returns; nothing of a network is needed for it."""

from typing import NamedTuple

import jax
import numpy as np


class Prediction(NamedTuple):
    """Answers to B samples, in the order they were given.

    NumPy arrays where the samples came from a host's loop.

    Attributes:
      probs: Class probabilities of the exit taken, float32 ``[B, C]``, or of every
        place of a map, ``[B, h, w, C]``.
      label: The most probable class, int32 ``[B]`` or ``[B, h, w]``.
      exit_index: The exit taken, 0-based, int32 ``[B]``.
      score: The policy's score there, float32 ``[B]``.
    """

    probs: jax.Array | np.ndarray
    label: jax.Array | np.ndarray
    exit_index: jax.Array | np.ndarray
    score: jax.Array | np.ndarray
