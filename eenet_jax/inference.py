"""All exits over a whole split, in jitted batches; the last partial batch is exact."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import distributed
from eenet_jax.backbones.staged import Backbone
from eenet_jax.data import batches, images
from eenet_jax.writers import Progress


class Predictor:
    """Runs a backbone in evaluation mode over uint8 images.

    Compiled once for a backbone, a batch size and an image shape; the variables are an
    argument, so it serves every checkpoint and every epoch.

    Attributes:
      batch_size: Images a call, over all devices.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        mesh: jax.sharding.Mesh,
    ):
        self.batch_size = batch_size
        self._mesh = mesh
        self._backbone = backbone
        self._normalise = functools.partial(images.normalise, mean=mean, std=std)
        self._logits = jax.jit(self._compute_logits)
        self._counts = jax.jit(self._compute_counts)

    def logits(self, variables: Any, split_images: np.ndarray, label: str = ""):
        """Computes the logits of every image.

        Args:
          variables: The backbone's variables.
          split_images: uint8 ``[N, H, W, C]``.
          label: Shown beside the progress bar.

        Returns:
          float32 NumPy array ``[K, N, C]``.
        """
        rows, mask = batches.eval_batches(len(split_images), self.batch_size)
        progress = Progress(len(rows), 0, "batch")
        outputs = []
        for index, valid in zip(rows, mask, strict=True):
            z = self._logits(variables, self._put(split_images[index]))
            outputs.append(np.asarray(z)[:, valid.astype(bool)])
            progress.update(1, label)
        progress.close()
        return np.concatenate(outputs, axis=1)

    def accuracy(self, variables: Any, split: Any) -> np.ndarray:
        """Returns the share of a split that each exit gets right, float64 ``[K]``."""
        rows, mask = batches.eval_batches(len(split.images), self.batch_size)
        counts = [
            self._counts(
                variables,
                self._put(split.images[index]),
                self._put(split.labels[index]),
                self._put(valid),
            )
            for index, valid in zip(rows, mask, strict=True)
        ]
        return np.sum(jax.device_get(counts), axis=0) / len(split.labels)

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(array, distributed.batch_sharding(self._mesh))

    def _compute_logits(self, variables: Any, batch: jax.Array) -> jax.Array:
        return self._backbone.apply(variables, self._normalise(batch))[0]

    def _compute_counts(self, variables, batch, labels, mask) -> jax.Array:
        answers = self._compute_logits(variables, batch).argmax(-1)  # [K, B]
        right = (answers == labels[None]) & mask.astype(bool)[None]
        return jnp.sum(right, axis=1, dtype=jnp.int32)
