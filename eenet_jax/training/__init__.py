"""Training of multi-exit backbones: objectives, optimisers, steps and the loop."""

from eenet_jax.training.loop import Result, train

__all__ = ["Result", "train"]
