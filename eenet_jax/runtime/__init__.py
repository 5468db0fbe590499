"""Running policies: replayed on saved predictions, or compiled with the network."""

from eenet_jax.runtime.simulate import Decisions, simulate

__all__ = ["Decisions", "simulate"]
