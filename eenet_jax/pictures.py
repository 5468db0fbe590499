"""What figures show of the data that a run's predictions are of."""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import config as config_lib
from eenet_jax.backbones.blocks import join
from eenet_jax.data import datasets, inputs, map_sets, text
from eenet_jax.data.datasets import Dataset
from eenet_jax.errors import UserError
from eenet_jax.map_examples import MapSource, Pictures
from eenet_jax.map_inference import resize_logits
from eenet_jax.predictions import Predictions
from eenet_jax.trained import load_trained


def map_source(
    workdir: str | pathlib.Path,
    which: str,
    *,
    int8: bool = False,
    blocks: str = "",
) -> MapSource:
    """Returns where pictures of a run's test images and their answers come from."""
    run = load_trained(workdir, which, int8=int8, blocks=blocks)
    dataset, backbone = run.dataset, run.backbone
    apply = jax.jit(lambda x: backbone.apply(run.variables, prepare(x))[0])
    prepare = inputs.prepare_eval(dataset)

    def read(rows: Sequence[int]) -> Pictures:
        split = datasets.subset(dataset.test, np.asarray(rows))
        (batch,) = inputs.eval_batches(dataset, split, len(rows))
        size = batch.labels.shape[1:]
        logits = apply(batch.inputs)  # [K, n G, h, w, C]
        block = jnp.zeros(size, int)
        if backbone.samples_per_input > 1:
            whole = tuple(
                side * count
                for side, count in zip(logits.shape[2:4], backbone.grid, strict=True)
            )
            numbers = jnp.arange(backbone.samples_per_input)[:, None, None]
            numbers = jnp.broadcast_to(numbers, (len(numbers), *logits.shape[2:4]))
            block = join(numbers, backbone.grid, whole)[0]
            logits = jnp.stack([join(each, backbone.grid, whole) for each in logits])
            # Places beyond the image come off again.
            up, across = (-(-a // b) for a, b in zip(size, whole, strict=True))
            enlarged = up * whole[0], across * whole[1]
            block = block.repeat(up, axis=0).repeat(across, axis=1)
        else:
            enlarged = size
        answers = [
            resize_logits(of_exit, enlarged).argmax(-1)[:, : size[0], : size[1]]
            for of_exit in logits
        ]
        return Pictures(
            batch.inputs,
            batch.labels,
            np.stack(answers).astype(np.uint8),
            np.asarray(block)[: size[0], : size[1]],
        )

    count = dataset.num_classes
    names = dataset.class_names or tuple(map(str, range(count)))
    return MapSource(read, names, map_sets.colours(dataset.name, count))


def images_of(workdir: str | pathlib.Path, predictions: Predictions) -> Dataset | None:
    """Returns the data that a run's predictions are of, None for texts.

    Raises:
      UserError: If the data are not there any more, or are others.
    """
    config = config_lib.read(pathlib.Path(workdir))
    if config.data.name in text.NAMES:
        return None
    dataset = config_lib.load_data(config)
    if not np.array_equal(dataset.test.labels, predictions.test.labels):
        raise UserError(
            f"the test labels of data.name={config.data.name} are not those that "
            f"{workdir} has predictions of; remove its predictions.npz if the data "
            "were changed"
        )
    return dataset
