"""Runs a policy over a data set with every stage on full batches.

Those who stay after an exit wait in a queue until they fill a batch, so that later
stages lose nothing to padding however few reach them. The host drives: after each stage
it learns how many stayed. Queues hold at most two batches each.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.runtime.checks import check_policy
from eenet_jax.runtime.staged import Prediction, pad_rows, places, take_exit
from eenet_jax.schedulers.policy import Policy
from eenet_jax.writers import Progress


def predict_dataset(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    batches: Iterable[tuple[np.ndarray, np.ndarray, Any]],
    *,
    num_samples: int,
    latest_exit: int | None = None,
) -> Prediction:
    """Answers all samples of a data set.

    Args:
      backbone: The network.
      variables: Its variables.
      policy: For this network's exits and classes.
      batches: ``(rows [B], mask [B], x)``: which samples, False on padding, and what
        the network reads. Batches of one shape come together (texts: a bucket after the
        other); all have the same B.
      num_samples: N.
      latest_exit: A hard limit, 0-based; None for the network's last.

    Returns:
      NumPy arrays in the order of the rows.
    """
    check_policy(backbone, policy)
    run = _Run(backbone, variables, policy, num_samples, latest_exit)
    progress = Progress(num_samples, 0, "sample")
    for rows, mask, x in batches:
        run.add(rows, mask, x)
        progress.update(int(mask.sum()), "adaptive")
    run.flush(0)
    progress.close()
    return run.prediction()


class _Run:
    """The queues and the answers so far."""

    def __init__(self, backbone, variables, policy, num_samples, latest_exit):
        self._exits = backbone.num_exits
        self._enter = jax.jit(backbone.stem)
        self._stage = jax.jit(functools.partial(_stage, backbone), static_argnums=0)
        self._variables, self._policy = variables, policy
        last = self._exits - 1
        self._latest = jnp.int32(last if latest_exit is None else latest_exit)
        self._queues: list[Any] = [None] * self._exits
        self._counts = [0] * self._exits
        self._shape: Any = None
        self._logits = np.zeros((num_samples, backbone.num_classes), np.float32)
        self._exit_index = np.zeros(num_samples, np.int32)
        self._score = np.zeros(num_samples, np.float32)

    def add(self, rows: np.ndarray, mask: np.ndarray, x: Any) -> None:
        """Takes a batch as far as full batches go."""
        shape = jax.tree.map(np.shape, x)
        if shape != self._shape:
            self.flush(0)
            self._shape = shape
        carry = self._enter(self._variables, x)
        batch_size = len(rows)
        trail = self._policy.init_trail(batch_size)
        self._run_stage(0, (carry, trail, jnp.asarray(rows, jnp.int32)), mask)
        # The deepest first: what it lets go makes room.
        for k in reversed(range(1, self._exits)):
            while self._counts[k] >= batch_size:
                self._run_full(k, batch_size)

    def flush(self, first: int) -> None:
        """Empties the queues in order, the last batch of each not full."""
        for k in range(max(first, 1), self._exits):
            while self._counts[k]:
                size = jax.tree.leaves(self._queues[k])[0].shape[0] // 2
                self._run_full(k, size)

    def prediction(self) -> Prediction:
        """Returns the answers."""
        probs = np.asarray(jax.nn.softmax(self._logits))
        label = self._logits.argmax(axis=-1).astype(np.int32)
        return Prediction(probs, label, self._exit_index, self._score)

    def _run_full(self, k: int, batch_size: int) -> None:
        count = min(self._counts[k], batch_size)
        samples, self._queues[k] = _take(self._queues[k])
        self._counts[k] -= count
        self._run_stage(k, samples, np.arange(batch_size) < count)

    def _run_stage(self, k: int, samples: Any, mask: np.ndarray) -> None:
        samples, stays, answers = self._stage(
            k, self._variables, self._policy, self._latest, samples, mask
        )
        stays, rows, logits, score = jax.device_get((stays, samples[2], *answers))
        left = mask & ~stays
        self._logits[rows[left]] = logits[left]
        self._exit_index[rows[left]] = k
        self._score[rows[left]] = score[left]
        count = int(stays.sum())
        if count:
            if self._queues[k + 1] is None or self._counts[k + 1] == 0:
                self._queues[k + 1] = jax.tree.map(_twice, samples)
            self._queues[k + 1] = _append(
                self._queues[k + 1], self._counts[k + 1], samples, stays
            )
            self._counts[k + 1] += count


def _stage(backbone, k, variables, policy, latest, samples, mask):
    carry, trail, rows = samples
    limits = jnp.full(len(mask), latest)
    carry, trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, limits
    )
    return (carry, trail, rows), mask & ~leaves, (answer, score)


@functools.partial(jax.jit, donate_argnums=0)
def _append(queue: Any, count: int, samples: Any, stays: jax.Array) -> Any:
    place = places(stays, len(stays))

    def put(buffer: jax.Array, leaf: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(buffer, leaf[place], count, 0)

    return jax.tree.map(put, queue, samples)


@functools.partial(jax.jit, donate_argnums=0)
def _take(queue: Any) -> tuple[Any, Any]:
    half = jax.tree.leaves(queue)[0].shape[0] // 2
    first = jax.tree.map(lambda buffer: buffer[:half], queue)
    rest = jax.tree.map(lambda buffer: pad_rows(buffer[half:], 2 * half), queue)
    return first, rest


def _twice(leaf: jax.Array) -> jax.Array:
    return jnp.zeros((2 * len(leaf), *leaf.shape[1:]), leaf.dtype)
