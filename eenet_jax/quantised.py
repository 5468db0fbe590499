"""A trained network in int8, calibrated on its training images."""

from typing import Any

import jax

from eenet_jax.backbones import int8
from eenet_jax.backbones.staged import Backbone
from eenet_jax.data import datasets, inputs
from eenet_jax.data.datasets import Dataset
from eenet_jax.errors import UserError

SAMPLES = 512  # to calibrate with
BATCH_SIZE = 64


def in_int8(
    backbone: Backbone, variables: Any, dataset: Dataset, num_workers: int
) -> tuple[Backbone, Any]:
    """Returns a network with its convolutions in int8, and its variables.

    Args:
      backbone: The network.
      variables: Its variables, float32.
      dataset: Training images of it calibrate, as evaluation sees them.
      num_workers: Processes that decode streamed images.

    Raises:
      UserError: If the network reads text.
    """
    if backbone.input_kind == "text":
        raise UserError(
            f"--int8 is for convolutions, and {backbone.name} reads text; leave it out"
        )
    samples = datasets.spread(dataset.train, SAMPLES)
    prepare = jax.jit(inputs.prepare_eval(dataset))
    size = min(BATCH_SIZE, samples.num_samples)
    batches = [
        prepare(batch.inputs)
        for batch in inputs.eval_batches(dataset, samples, size, num_workers)
        if batch.mask.all()
    ]
    return int8.quantise(backbone, variables, batches)


def describe() -> str:
    """Says what int8 is on the device at hand."""
    device = jax.default_backend()
    how = "int8 products are summed in int32; --cost=latency_ms shows what it gains"
    if device == "cpu":
        how = "whole numbers are summed in float32: exact, and not quicker"
    return f"convolutions of stem and stages in int8, heads in float; on {device} {how}"
