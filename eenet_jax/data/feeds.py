"""Feeds: how the batches of a training split reach the compiled steps.

A memory feed keeps the whole split on the devices and sends row numbers; a stream feed
sends decoded batches, of which each process decodes its part. Both draw an epoch's
order from the seed and the epoch alone, so a resumed run sees the batches that it would
have seen.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from eenet_jax import distributed
from eenet_jax.data import batches, stream
from eenet_jax.data.map_records import MapStream
from eenet_jax.data.stream import StreamSplit


class Call(NamedTuple):
    """What one call of the compiled chunk of steps takes.

    Attributes:
      inputs: Pytree of arrays ``[N, ...]``.
      labels: int32 ``[N]``, or label maps uint8 ``[N, H, W]``.
      rows: Rows of each step's batch, int32 ``[S, B]``; None for one step on all of
        ``inputs``.
    """

    inputs: Any
    labels: jax.Array
    rows: jax.Array | None

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return 1 if self.rows is None else len(self.rows)


class Feed(Protocol):
    """Batches of one training split.

    Attributes:
      steps_per_epoch: Full batches an epoch.
    """

    steps_per_epoch: int

    def calls(self, epoch: int, start: int, stop: int, most: int) -> Iterator[Call]:
        """Yields steps start..stop-1 of an epoch, at most ``most`` a call."""
        ...

    def input_wait(self) -> float | None:
        """Returns the share of time spent waiting for input since the last call."""
        ...

    def close(self) -> None:
        """Lets go of what reads the data."""
        ...


class MemoryFeed:
    """A split that lies on the devices, in one group or one a length bucket.

    Args:
      groups: ``(inputs, labels)`` of each group; every leaf of inputs ``[N_g, ...]``.
      seed: The run's seed.
      batch_size: Samples a step over all devices.
      mesh: Where the split is copied to, at the first call.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Any, np.ndarray]],
        *,
        seed: int,
        batch_size: int,
        mesh: jax.sharding.Mesh,
    ):
        self._groups = list(groups)
        self._sizes = [len(labels) for _, labels in groups]
        self._seed, self._batch_size, self._mesh = seed, batch_size, mesh
        self._placed = False
        self.steps_per_epoch = sum(size // batch_size for size in self._sizes)

    def calls(self, epoch: int, start: int, stop: int, most: int) -> Iterator[Call]:
        """Yields steps start..stop-1; steps of one call are of one group."""
        if not self._placed:
            for i, group in enumerate(self._groups):
                self._groups[i] = distributed.replicate(group, self._mesh)
            self._placed = True
        by_batch = distributed.batch_sharding(self._mesh, axis=1)
        if len(self._groups) == 1:
            rows = batches.epoch_indices(
                self._seed, epoch, self._sizes[0], self._batch_size
            )
            chosen = np.zeros(len(rows), int)
        else:
            chosen, rows = batches.grouped_epoch_indices(
                self._seed, epoch, self._sizes, self._batch_size
            )
            most = 1
        for i in range(start, stop, most):
            part = rows[i : min(i + most, stop)]
            yield Call(*self._groups[chosen[i]], distributed.put(part, by_batch))

    def input_wait(self) -> float | None:
        """Returns None: nothing is waited for."""
        return None

    def close(self) -> None:
        """Does nothing: the arrays go with the feed."""


class StreamFeed:
    """A split that is read, decoded and augmented by worker processes as it goes.

    Args:
      split: The training split.
      seed: The run's seed.
      batch_size: Samples a step over all devices.
      mesh: The devices.
      flip: Mirrors each image left-right with probability 1/2.
      num_workers: Processes that decode.
    """

    def __init__(
        self,
        split: StreamSplit | MapStream,
        *,
        seed: int,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        flip: bool,
        num_workers: int,
    ):
        self._split, self._mesh = split, mesh
        self._options = {
            "seed": seed,
            "batch_size": batch_size,
            "flip": flip,
            "num_workers": num_workers,
        }
        self._clock = stream.WaitClock()
        self._source: Iterator[Any] = iter(())
        self._next: int | None = None  # step of the run that the source yields next
        self.steps_per_epoch = split.num_samples // batch_size

    def calls(self, epoch: int, start: int, stop: int, most: int) -> Iterator[Call]:
        """Yields steps start..stop-1, one a call; the workers read ahead."""
        del most
        first = epoch * self.steps_per_epoch + start
        if first != self._next:
            self.close()
            batches_of_run = stream.train_batches(
                self._split,
                epoch=epoch,
                start_step=start,
                stop_step=sys.maxsize,
                host_index=jax.process_index(),
                host_count=jax.process_count(),
                **self._options,
            )
            self._source = self._clock.watch(batches_of_run)
        sharding = distributed.batch_sharding(self._mesh)
        for step in range(first, first + stop - start):
            batch = next(self._source)
            self._next = step + 1
            yield Call(*distributed.put_part(batch, sharding), None)

    def input_wait(self) -> float:
        """Returns the share of time spent waiting for input since the last call."""
        return self._clock.share()

    def close(self) -> None:
        """Stops the workers."""
        if hasattr(self._source, "close"):
            self._source.close()
        self._source, self._next = iter(()), None
