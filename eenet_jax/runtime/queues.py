"""Runs a policy over a data set with every stage on full batches.

Those who stay after an exit wait in a queue until they fill a batch, so that later
stages lose nothing to padding however few reach them. The host drives: after each stage
it learns how many stayed. A queue that fills a batch is run at once, so that between
calls each holds less than one; its buffer has room for two.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.runtime.bundle_inputs import check_limits
from eenet_jax.runtime.checks import check_policy
from eenet_jax.runtime.exit_step import places, take_exit
from eenet_jax.runtime.prediction import Prediction
from eenet_jax.runtime.staged import pad_rows
from eenet_jax.schedulers.policy import Policy
from eenet_jax.writers import Progress


def predict_dataset(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    batches: Iterable[tuple[np.ndarray, np.ndarray, Any]],
    *,
    num_samples: int,
    latest_exit: Any = None,
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
      latest_exit: A hard limit: the last exit (0-based) that each sample may wait for,
        int ``[N]`` or one for all; None for the network's last.

    Returns:
      NumPy arrays in the order of the rows.

    Raises:
      UserError: If policy or limits do not fit.
    """
    queues = Queues(backbone, variables, policy, num_samples, latest_exit)
    progress = Progress(num_samples, 0, "sample")
    for rows, mask, x in batches:
        queues.add(rows, mask, x)
        progress.update(int(mask.sum()), "adaptive")
    queues.flush()
    progress.close()
    return queues.prediction()


class Queues:
    """The queues and the answers so far; see ``predict_dataset`` for the arguments.

    Attributes:
      exit_index: Exits taken, int32 ``[N]``; 0 for those who are on the way.
    """

    def __init__(
        self,
        backbone: Backbone,
        variables: Any,
        policy: Policy,
        num_samples: int,
        latest_exit: Any = None,
        keep_logits: bool = True,
    ):
        check_policy(backbone, policy)
        self._exits = backbone.num_exits
        self._enter, self._stage = _programs(backbone)
        self._variables, self._policy = variables, policy
        limits = check_limits(latest_exit, num_samples, self._exits)
        self._latest_exit = jnp.asarray(limits)
        self._queues: list[Any] = [None] * self._exits
        self._counts = [0] * self._exits
        self._shape: Any = None
        self._backbone, self._keep_logits = backbone, keep_logits
        self._logits: np.ndarray | None = None  # their shape may depend on the inputs
        self.exit_index = np.zeros(num_samples, np.int32)
        self._score = np.zeros(num_samples, np.float32)

    def compile(self, x: Any) -> None:
        """Runs everything once on inputs like these, and forgets the answers."""
        carry = self._enter(self._variables, x)
        size = jax.tree.leaves(x)[0].shape[0] * self._backbone.samples_per_input
        rows, mask = jnp.zeros(size, jnp.int32), np.ones(size, bool)
        samples = carry, self._policy.init_trail(size), rows
        for k in range(self._exits):
            if k:
                queue = _append(jax.tree.map(_twice, samples), 0, samples, mask)
                jax.block_until_ready(_take(queue))
            samples, _, _ = self._stage(
                k, self._variables, self._policy, self._latest_exit, samples, mask
            )

    def add(self, rows: np.ndarray, mask: np.ndarray, x: Any) -> None:
        """Takes a batch as far as full batches go."""
        shape = jax.tree.map(np.shape, x)
        if shape != self._shape:
            self.flush()
            self._shape = shape
        if self._logits is None and self._keep_logits:
            answer = self._backbone.answer_shape(self._variables, x)
            self._logits = np.zeros((len(self._score), *answer), np.float32)
        carry = self._enter(self._variables, x)
        trail = self._policy.init_trail(len(rows))
        self._run_stage(0, (carry, trail, jnp.asarray(rows, jnp.int32)), mask)

    def flush(self) -> None:
        """Empties the queues in order, with batches that are not full."""
        for k in range(1, self._exits):
            if self._counts[k]:
                self._run_queue(k)
            self._queues[k] = None  # empty, but of memory

    def prediction(self) -> Prediction:
        """Returns the answers, where their logits are kept."""
        probs = np.asarray(jax.nn.softmax(self._logits))
        label = self._logits.argmax(axis=-1).astype(np.int32)
        return Prediction(probs, label, self.exit_index, self._score)

    def _run_queue(self, k: int) -> None:
        """Runs stage ``k`` on the first batch that waits for it."""
        samples, self._queues[k] = _take(self._queues[k])
        batch_size = len(samples[2])
        count = min(self._counts[k], batch_size)
        self._counts[k] -= count
        self._run_stage(k, samples, np.arange(batch_size) < count)

    def _run_stage(self, k: int, samples: Any, mask: np.ndarray) -> None:
        samples, stays, (logits, score) = self._stage(
            k, self._variables, self._policy, self._latest_exit, samples, mask
        )
        stays, rows, score = jax.device_get((stays, samples[2], score))
        left = mask & ~stays
        if self._keep_logits:
            self._logits[rows[left]] = np.asarray(logits)[left]
        self.exit_index[rows[left]] = k
        self._score[rows[left]] = score[left]
        if stays.any():
            self._wait(k + 1, samples, stays)

    def _wait(self, k: int, samples: Any, stays: np.ndarray) -> None:
        """Puts those who stay into the queue for stage ``k``."""
        if not self._counts[k]:  # also where the shape of a batch has changed
            self._queues[k] = jax.tree.map(_twice, samples)
        self._queues[k] = _append(self._queues[k], self._counts[k], samples, stays)
        self._counts[k] += int(stays.sum())
        if self._counts[k] >= len(stays):
            self._run_queue(k)


@functools.cache
def _programs(backbone: Backbone):
    """Returns the jitted stem and stages, which all runs share."""
    stage = jax.jit(functools.partial(_stage, backbone), static_argnums=0)
    return jax.jit(backbone.stem), stage


def _stage(backbone, k, variables, policy, latest_exit, samples, mask):
    carry, trail, rows = samples
    carry = backbone.stage(k, variables, carry)
    trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, latest_exit[rows], mask
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
