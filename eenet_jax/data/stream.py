"""Streamed images: read, decoded and augmented by worker processes as they are needed.

For sets too large for the memory of a device. What a sample looks like follows from the
run's seed, the epoch and the sample's index alone, so a resumed run, and any number of
workers or hosts, sees the same pixels. Nothing here imports JAX, which the workers have
no use for.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from eenet_jax.data import batches, decode, workers
from eenet_jax.data.map_records import MapStream
from eenet_jax.errors import UserError

T = TypeVar("T")
Pair = tuple[np.ndarray, np.ndarray]


class Records(Protocol):
    """Encoded images that can be read in any order; can be sent to a process."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        """Returns the encoded image and its label."""
        ...

    def name(self, row: int) -> str:
        """Returns what to call the record in an error message."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamSplit:
    """A split whose images are read when they are needed.

    Attributes:
      records: Where the images are; may hold those of other splits too.
      labels: int32 ``[N]``, of the split's samples.
      rows: int64 ``[N]``, their places in ``records``.
      image_size: Side of the images that are shown, in pixels.
      resize: Shorter side of an image before evaluation cuts out its centre.
    """

    records: Records
    labels: np.ndarray
    rows: np.ndarray
    image_size: int = 224
    resize: int = 256

    def __post_init__(self):
        if not 1 <= self.image_size <= self.resize:
            raise UserError(
                f"data.image_size={self.image_size} must be from 1 to "
                f"resize={self.resize}: it is cut out of images whose shorter side is "
                "resize"
            )

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> "StreamSplit":
        """Returns the samples at ``indices``, such as those of a stratified split."""
        chosen = {"labels": self.labels[indices], "rows": self.rows[indices]}
        return dataclasses.replace(self, **chosen)

    def train_part(self, flip: bool, seed: int, epoch: int, indices: Any) -> Pair:
        """Decodes and augments samples of an epoch; see ``train_batches``."""

        def pixels(index: int, data: bytes) -> np.ndarray:
            rng = np.random.default_rng([seed, epoch, index])
            return decode.train_image(data, self.image_size, rng, flip)

        return _decoded(self, indices, pixels)

    def eval_part(self, indices: Any) -> Pair:
        """Decodes samples; see ``eval_batches``."""

        def pixels(index: int, data: bytes) -> np.ndarray:
            del index
            return decode.eval_image(data, self.image_size, self.resize)

        return _decoded(self, indices, pixels)


def train_batches(
    split: StreamSplit | MapStream,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    num_workers: int,
    start_step: int = 0,
    stop_step: int | None = None,
    flip: bool = True,
    host_index: int = 0,
    host_count: int = 1,
) -> Iterator[Pair]:
    """Yields augmented batches in the order of ``batches.epoch_indices``.

    Workers start with the first batch that is asked for, read about two batches ahead,
    and end with the last batch or when the iterator is closed. One iterator may go over
    several epochs, which saves starting them again.

    Args:
      split: What to train on.
      seed: The run's seed.
      epoch: From which ``start_step`` and ``stop_step`` count.
      batch_size: Samples a step over all devices and hosts.
      num_workers: Processes that decode; 0 decodes in this one.
      start_step: First step; nothing before it is read.
      stop_step: Step to stop before; beyond the epoch's steps the next epochs follow.
        None for the end of the epoch.
      flip: Mirrors each image left-right with probability 1/2.
      host_index: Which of the hosts this is; each takes its part of every batch, in
        order.
      host_count: How many hosts share a batch.

    Returns:
      Iterator of ``(images uint8 [B_local, S, S, 3], labels int32 [B_local])``, with
      B_local = batch_size / host_count; of label maps as ``MapStream.eval_part`` has
      them.

    Raises:
      UserError: If a number does not fit. While iterating, if an image cannot be read
        or decoded, with its name, or if a worker died.
    """
    local = _local_part(batch_size, host_index, host_count)
    draw = functools.partial(
        batches.epoch_indices, num_samples=split.num_samples, batch_size=batch_size
    )
    first = draw(seed, epoch)
    steps = len(first)

    def tasks() -> Iterator[tuple[int, np.ndarray]]:
        current, order = epoch, first
        for step in range(start_step, steps if stop_step is None else stop_step):
            if epoch + step // steps != current:
                current = epoch + step // steps
                order = draw(seed, current)
            yield current, order[step % steps, local]

    load = functools.partial(split.train_part, flip, seed)
    return workers.loaded(load, tasks(), _checked(num_workers))


def eval_batches(
    split: StreamSplit | MapStream,
    *,
    batch_size: int,
    num_workers: int,
    host_index: int = 0,
    host_count: int = 1,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields every sample once over all hosts, in order and without augmentation.

    Args:
      split: What to go through.
      batch_size: Samples a step over all devices and hosts.
      num_workers: As for ``train_batches``.
      host_index: Likewise.
      host_count: Likewise.

    Returns:
      Iterator of ``(images uint8 [B_local, S, S, 3], labels int32 [B_local], mask bool
      [B_local])``, alike in number on all hosts. Padding is black, its label 0 and its
      mask False.

    Raises:
      UserError: As for ``train_batches``.
    """
    local = _local_part(batch_size, host_index, host_count)
    rows, masks = (
        part[:, local] for part in batches.eval_batches(split.num_samples, batch_size)
    )
    tasks = ((index[mask],) for index, mask in zip(rows, masks, strict=True))
    load = split.eval_part
    return _padded(workers.loaded(load, tasks, _checked(num_workers)), masks)


class WaitClock:
    """Measures the share of time that a consumer waits for its batches.

    The host runs ahead of the devices, so they have waited for no longer than this.
    """

    def __init__(self):
        self._waited, self._since = 0.0, time.perf_counter()

    def watch(self, source: Iterable[T]) -> Iterator[T]:
        """Yields what ``source`` does, and counts the time that it takes."""
        iterator = iter(source)
        try:
            while True:
                before = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._waited += time.perf_counter() - before
                yield item
        finally:
            if hasattr(iterator, "close"):
                iterator.close()

    def share(self) -> float:
        """Returns waited / total since the last call, in [0, 1], and starts anew."""
        waited, since = self._waited, self._since
        self._waited, self._since = 0.0, time.perf_counter()
        return min(1.0, waited / max(self._since - since, 1e-9))


def _local_part(batch_size: int, host_index: int, host_count: int) -> slice:
    if host_count < 1 or batch_size % host_count or not 0 <= host_index < host_count:
        raise UserError(
            f"batch_size={batch_size} cannot be shared by host_count={host_count} "
            f"hosts, of which this is {host_index}; take a multiple of the hosts"
        )
    local = batch_size // host_count
    return slice(host_index * local, (host_index + 1) * local)


def _checked(num_workers: int) -> int:
    if num_workers < 0:
        raise UserError(
            f"data.num_workers={num_workers} must be at least 0; 0 decodes in the "
            "process that trains"
        )
    return num_workers


def _padded(loaded: Iterator[Pair], masks: np.ndarray) -> Iterator[Any]:
    with contextlib.closing(loaded):
        for (images, labels), mask in zip(loaded, masks, strict=True):
            missing = len(mask) - len(labels)
            if missing:
                images, labels = (
                    _with_rows(images, missing),
                    _with_rows(labels, missing),
                )
            yield images, labels, mask


def _with_rows(values: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(values, ((0, missing), *[(0, 0)] * (values.ndim - 1)))


# In the workers.


def _decoded(
    split: StreamSplit,
    indices: Sequence[int],
    pixels: Callable[[int, bytes], np.ndarray],
) -> Pair:
    size = split.image_size
    images = np.empty((len(indices), size, size, 3), np.uint8)
    for i, index in enumerate(indices):
        row, label = int(split.rows[index]), int(split.labels[index])
        data, stored = split.records[row]
        if stored != label:
            raise UserError(
                f"{split.records.name(row)} has label {stored}, which was {label} when "
                "the labels were read; the set was changed, start again"
            )
        try:
            images[i] = pixels(int(index), data)
        except UserError as error:
            raise UserError(f"{split.records.name(row)} {error}") from error
    return images, split.labels[indices]
