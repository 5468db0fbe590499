"""Running policies: replayed on saved predictions, or compiled with the network."""

from eenet_jax.runtime.simulate import Decisions, simulate
from eenet_jax.runtime.staged import Prediction, adaptive_predict

__all__ = ["Decisions", "Prediction", "adaptive_predict", "simulate"]
