"""All exits over a whole split, in jitted batches; the last partial batch is exact."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import distributed, predictions, processes
from eenet_jax.backbones.staged import Backbone
from eenet_jax.data import inputs as inputs_lib
from eenet_jax.data.datasets import Dataset, Split
from eenet_jax.data.inputs import EvalBatch
from eenet_jax.iou import mean_iou
from eenet_jax.map_inference import confusion
from eenet_jax.schedulers.evidence import pooled
from eenet_jax.schedulers.feature_gates import gate_inputs
from eenet_jax.writers import Progress


class Predictor:
    """Runs a backbone in evaluation mode over the splits of a data set.

    Of several processes each sends its part of every batch, and all have the results.
    Compiled once for every shape of batch; the variables are an argument, so it serves
    every checkpoint and every epoch, and equal networks share what is compiled.

    Args:
      backbone: The network.
      dataset: Whose splits it will run over.
      batch_size: Samples a call, over all devices.
      mesh: The devices.
      num_workers: Processes that decode streamed images.
    """

    def __init__(
        self,
        backbone: Backbone,
        dataset: Dataset,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        num_workers: int = 0,
    ):
        self._dataset = dataset
        self._batch_size, self._num_workers = batch_size, num_workers
        self._mesh = mesh
        fields = {
            f.name: getattr(backbone, f.name) for f in dataclasses.fields(backbone)
        }
        given = dataset.kind, tuple(dataset.mean), tuple(dataset.std)
        self._run = _programs(*given, type(backbone), **fields)

    def logits(self, variables: Any, split: Split, label: str = "") -> np.ndarray:
        """Computes the logits of every sample, float32 ``[K, N, C]``.

        Args:
          variables: The backbone's variables.
          split: Of the data set.
          label: Shown beside the progress bar.
        """
        return self._gather(
            split, label, lambda batch, _: self._run.logits(variables, batch), axis=1
        )

    def evidence(
        self, variables: Any, split: Split, inputs: str, label: str = ""
    ) -> predictions.Split:
        """Computes logits, and what gates read of every early exit.

        Args:
          variables: The backbone's variables.
          split: Of the data set.
          inputs: One of ``schedulers.feature_gates.INPUTS``.
          label: Shown beside the progress bar.
        """
        logits, features = self._gather(
            split,
            label,
            lambda batch, _: self._run.evidence(variables, batch, inputs=inputs),
        )
        return predictions.Split(logits.swapaxes(0, 1), split.labels, features)

    def map_evidence(
        self, variables: Any, split: Split, label: str = ""
    ) -> predictions.Split:
        """Computes what maps say of their images and how right they are.

        Args:
          variables: The backbone's variables.
          split: Of the data set, whose labels are maps.
          label: Shown beside the progress bar.
        """
        found = self._gather(
            split, label, lambda *batch: self._run.map_evidence(variables, *batch)
        )
        # A sample is an image, or one of its blocks.
        found = (value.reshape(-1, *value.shape[2:]) for value in found)
        logits, *of_maps = (value.swapaxes(0, 1) for value in found)
        return predictions.Split(logits, None, None, *of_maps)

    def head_inputs(self, variables: Any, split: Split, heads: int) -> tuple[Any, ...]:
        """Computes what the first ``heads`` heads read, leaves ``[N, ...]``."""
        return self._gather(
            split,
            "features",
            lambda batch, _: self._run.to_heads(variables, batch, heads=heads),
        )

    def accuracy(self, variables: Any, split: Split) -> np.ndarray:
        """Returns how right each exit is on a split, float64 ``[K]``.

        The share of samples, or the mean IoU where labels are maps.
        """
        by_batch = distributed.batch_sharding(self._mesh)
        counts = [
            self._run.counts(
                variables,
                *distributed.put_part((batch.inputs, batch.labels), by_batch),
                distributed.put(batch.mask, by_batch),
            )
            for batch in self._batches(split)
        ]
        total = np.sum(distributed.to_host(counts), axis=0, dtype=np.int64)
        if total.ndim == 3:
            return mean_iou(total)
        return total / split.num_samples

    def _gather(
        self,
        split: Split,
        label: str,
        function: Callable[[Any, jax.Array], Any],
        axis: int = 0,
    ) -> Any:
        """Returns a function of inputs and labels for all samples, in their order."""
        progress = Progress(
            inputs_lib.num_eval_batches(self._dataset, split, self._batch_size),
            0,
            "batch",
            shown=processes.is_first(),
        )
        by_batch = distributed.batch_sharding(self._mesh)
        empty = functools.partial(_empty_like, axis=axis, size=split.num_samples)
        gathered: Any = None
        for batch in self._batches(split):
            sent = distributed.put_part((batch.inputs, batch.labels), by_batch)
            values = distributed.to_host(function(*sent))
            if gathered is None:
                gathered = jax.tree.map(empty, values)
            fill = functools.partial(_fill, batch=batch, axis=axis)
            jax.tree.map(fill, gathered, values)
            progress.update(1, label)
        progress.close()
        return gathered

    def _batches(self, split: Split) -> Iterator[EvalBatch]:
        return inputs_lib.eval_batches(
            self._dataset,
            split,
            self._batch_size,
            self._num_workers,
            host_index=jax.process_index(),
            host_count=jax.process_count(),
        )


class _Programs(NamedTuple):
    """Compiled maps of variables and a batch of inputs."""

    logits: Callable[..., jax.Array]
    evidence: Callable[..., Any]
    map_evidence: Callable[..., Any]
    counts: Callable[..., jax.Array]
    to_heads: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def _programs(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...], network: type, **fields
) -> _Programs:
    """Returns the programs of a backbone of these fields; of equal ones the same."""
    backbone = network(**fields)
    prepare = inputs_lib.preparation(kind, mean, std)

    def logits(variables: Any, batch: Any) -> jax.Array:
        return backbone.apply(variables, prepare(batch))[0]

    def of_exits(variables: Any, batch: Any, *, inputs: str) -> Any:
        return evidence(backbone, variables, prepare(batch), inputs)

    def of_maps(variables: Any, batch: Any, labels: jax.Array) -> Any:
        found, blocks = logits(variables, batch), backbone.samples_per_input
        if blocks > 1:
            labels = backbone.cut_labels(labels, found.shape[2:4])

        def by_image(value: jax.Array) -> jax.Array:  # [K, B G, ...]
            value = value.swapaxes(0, 1)
            return value.reshape(-1, blocks, *value.shape[1:])

        return jax.tree.map(by_image, (*pooled(found), confusion(found, labels)))

    def counts(variables: Any, batch: Any, labels: Any, mask: Any) -> jax.Array:
        found = logits(variables, batch)
        if labels.ndim == 3:
            of_images = confusion(found, labels)  # [K, B, C, C]
            real = mask.astype(bool)[None, :, None, None]
            return jnp.sum(of_images, axis=1, where=real)
        answers = found.argmax(-1)  # [K, B]
        right = (answers == labels[None]) & mask.astype(bool)[None]
        return jnp.sum(right, axis=1, dtype=jnp.int32)

    def to_heads(variables: Any, batch: Any, *, heads: int) -> Any:
        return backbone.head_inputs(variables, prepare(batch))[:heads]

    return _Programs(
        jax.jit(logits),
        jax.jit(of_exits, static_argnames="inputs"),
        jax.jit(of_maps),
        jax.jit(counts),
        jax.jit(to_heads, static_argnames="heads"),
    )


def evidence(
    backbone: Backbone, variables: Any, x: Any, inputs: str
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns logits ``[B, K, C]``, and what the early exits' gates read, ``[B, F_k]``.

    Args:
      backbone: The network.
      variables: Its variables.
      x: Its inputs.
      inputs: One of ``schedulers.feature_gates.INPUTS``.
    """
    carry, logits, features = backbone.stem(variables, x), [], []
    for k in range(backbone.num_exits):
        carry = backbone.stage(k, variables, carry)
        logits.append(backbone.head(k, variables, carry))
        offered = backbone.exit_features(k, variables, carry)
        features.append(gate_inputs(inputs, offered))
    return jnp.stack(logits, axis=1), tuple(features[:-1])


def _fill(
    target: np.ndarray, value: np.ndarray, *, batch: EvalBatch, axis: int
) -> None:
    every, real = (slice(None),) * axis, batch.mask.astype(bool)
    target[(*every, batch.rows[real])] = value[(*every, real)]


def _empty_like(value: np.ndarray, *, axis: int, size: int) -> np.ndarray:
    return np.empty((*value.shape[:axis], size, *value.shape[axis + 1 :]), value.dtype)
