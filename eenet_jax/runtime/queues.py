"""Runs a policy over a data set with every stage on full batches.

Those who stay after an exit wait in a queue until they fill a batch, so that later
stages lose nothing to padding however few reach them. The host drives: after each stage
it learns how many stayed. A queue that fills a batch is run at once, so that between
calls each holds less than one.
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
        self._stage = _program(backbone)
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
        size = jax.tree.leaves(x)[0].shape[0] * self._backbone.samples_per_input
        samples, mask = (x, (), np.zeros(size, np.int32)), np.ones(size, bool)
        for k in range(self._exits):
            if k:
                _merge(samples, 0, samples, mask)
                _after(samples, 0, mask)
            samples, _, _ = self._stage(
                k, self._variables, self._policy, self._latest_exit, samples, mask
            )
        jax.block_until_ready(samples)  # what is timed next shall not wait for it

    def add(self, rows: np.ndarray, mask: np.ndarray, x: Any) -> None:
        """Takes a batch as far as full batches go."""
        shape = jax.tree.map(np.shape, x)
        if shape != self._shape:
            self.flush()
            self._shape = shape
        if self._logits is None and self._keep_logits:
            answer = self._backbone.answer_shape(self._variables, x)
            self._logits = np.zeros((len(self._score), *answer), np.float32)
        self._run_stage(0, (x, (), np.asarray(rows, np.int32)), mask)

    def flush(self) -> None:
        """Empties the queues in order, with batches that are not full."""
        for k in range(1, self._exits):
            if self._counts[k]:
                self._run_queue(k)

    def prediction(self) -> Prediction:
        """Returns the answers, where their logits are kept."""
        probs = np.asarray(jax.nn.softmax(self._logits))
        label = self._logits.argmax(axis=-1).astype(np.int32)
        return Prediction(probs, label, self.exit_index, self._score)

    def _run_queue(self, k: int) -> None:
        """Runs stage ``k`` on those who wait for it."""
        samples, count = self._queues[k], self._counts[k]
        self._queues[k], self._counts[k] = None, 0
        self._run_stage(k, samples, np.arange(len(samples[2])) < count)

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
        waiting, size = self._counts[k], len(stays)
        if stays.all() and not waiting:
            self._run_stage(k, samples, stays)
            return
        queue = self._queues[k] if waiting else samples
        merged, more = _merge(queue, waiting, samples, stays), int(stays.sum())
        self._queues[k], self._counts[k] = merged, waiting + more
        if waiting + more < size:
            return
        self._counts[k] -= size
        rest = _after(samples, size - waiting, stays) if self._counts[k] else None
        self._queues[k] = rest
        self._run_stage(k, merged, np.ones(size, bool))


@functools.cache
def _program(backbone: Backbone):
    """Returns the jitted stages, which all runs share."""
    return jax.jit(functools.partial(_stage, backbone), static_argnums=0)


def _stage(backbone, k, variables, policy, latest_exit, samples, mask):
    carry, trail, rows = samples  # at first inputs, and no trail
    if k == 0:
        carry, trail = backbone.stem(variables, carry), policy.init_trail(len(rows))
    carry = backbone.stage(k, variables, carry)
    trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, latest_exit[rows], mask
    )
    return (carry, trail, rows), mask & ~leaves, (answer, score)


@jax.jit
def _merge(queue: Any, count: int, samples: Any, stays: jax.Array) -> Any:
    """Puts those who stay, as far as there is room, behind the first ``count``."""
    row = jnp.arange(len(stays))
    source = places(stays, len(stays))[(row - count) % len(stays)]

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        waits = (row < count).reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(waits, old, new[source])

    return jax.tree.map(put, queue, samples)


@jax.jit
def _after(samples: Any, count: int, stays: jax.Array) -> Any:
    """Returns those who stay without the first ``count`` of them."""
    row = jnp.arange(len(stays))
    source = places(stays, len(stays))[(row + count) % len(stays)]
    return jax.tree.map(lambda leaf: leaf[source], samples)
