"""Runs a policy over a data set with every stage on full batches.

Those who stay after an exit wait in a queue until they fill a batch, so that later
stages lose nothing to padding however few reach them. The host drives: after each stage
it learns who stays. A queue that fills a batch is run at once, so that between calls
each holds less than one. Samples stay in the rows where they are; of two batches that
meet before a stage, rows of the emptier one fill the holes of the other.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.runtime.bundle_inputs import check_limits
from eenet_jax.runtime.checks import check_policy
from eenet_jax.runtime.exit_step import take_exit
from eenet_jax.runtime.prediction import Prediction
from eenet_jax.runtime.stage_variables import stage_variables
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
        self._parts: list[Any] = []  # the variables that each stage reads
        self._latest_exit = check_limits(latest_exit, num_samples, self._exits)
        self._queues: list[_Batch | None] = [None] * self._exits
        self._shape: Any = None
        self._backbone, self._keep_logits = backbone, keep_logits
        self._logits: np.ndarray | None = None  # their shape may depend on the inputs
        self.exit_index = np.zeros(num_samples, np.int32)
        self._score = np.zeros(num_samples, np.float32)

    def compile(self, x: Any) -> None:
        """Runs everything once on inputs like these, and forgets the answers."""
        size = jax.tree.leaves(x)[0].shape[0] * self._backbone.samples_per_input
        rows, there = np.zeros(size, np.int32), np.ones(size, bool)
        samples = x, (), rows
        self._prepare(x)
        for k in range(self._exits):
            if k:
                samples = _move(samples, jax.tree.map(jnp.copy, samples), rows, rows, 1)
            samples, stays, _ = self._stage(
                k, self._parts[k], self._policy, samples, there
            )
            jax.block_until_ready((samples, stays))  # before anything is timed

    def add(self, rows: np.ndarray, mask: np.ndarray, x: Any) -> None:
        """Takes a batch as far as full batches go."""
        shape = jax.tree.map(np.shape, x)
        if shape != self._shape:
            self.flush()
            self._shape = shape
            self._prepare(x)
        samples = x, (), self._latest_exit[np.where(mask, rows, 0)]
        self._run(0, _Batch(samples, np.asarray(rows), np.asarray(mask, bool)))

    def _prepare(self, x: Any) -> None:
        self._parts = stage_variables(self._backbone, self._variables, x)
        if self._logits is None and self._keep_logits:
            answer = self._backbone.answer_shape(self._variables, x)
            self._logits = np.zeros((len(self._score), *answer), np.float32)

    def flush(self) -> None:
        """Empties the queues in order, with batches that are not full."""
        for k in range(1, self._exits):
            waiting, self._queues[k] = self._queues[k], None
            if waiting is not None:
                self._run(k, waiting)

    def prediction(self) -> Prediction:
        """Returns the answers, where their logits are kept."""
        probs = np.asarray(jax.nn.softmax(self._logits))
        label = self._logits.argmax(axis=-1).astype(np.int32)
        return Prediction(probs, label, self.exit_index, self._score)

    def _run(self, k: int, batch: "_Batch") -> None:
        """Runs a batch from stage ``k`` as long as it is full, or can be filled."""
        full: _Batch | None = batch
        answered: tuple[Any, ...] = ()
        while full is not None:
            samples, rows, there = full
            samples, stays, answers = self._stage(
                k, self._parts[k], self._policy, samples, there
            )
            if answered:
                self._keep(*answered)  # while the device is busy
            stays = np.asarray(stays)
            answered = k, rows, there & ~stays, *answers
            k += 1
            full = self._wait(k, _Batch(samples, rows, stays))
        self._keep(*answered)

    def _keep(
        self,
        k: int,
        rows: np.ndarray,
        left: np.ndarray,
        logits: jax.Array,
        score: jax.Array,
    ) -> None:
        """Keeps the answers of those who left at exit ``k``."""
        if not left.any():
            return
        rows = rows[left]
        if self._keep_logits:
            self._logits[rows] = np.asarray(logits)[left]
        self.exit_index[rows] = k
        self._score[rows] = np.asarray(score)[left]

    def _wait(self, k: int, batch: "_Batch") -> "_Batch | None":
        """Lets those who stay wait for stage ``k``; returns a batch if one is full."""
        if not batch.there.any():
            return None
        waiting, self._queues[k] = self._queues[k], None
        if waiting is not None and not batch.there.all():
            batch, waiting = _fill(*sorted((batch, waiting), key=_Batch.count))
        if batch.there.all():
            self._queues[k] = waiting
            return batch
        self._queues[k] = batch
        return None


class _Batch(NamedTuple):
    """Samples on their way through the stages, in rows of which some may be holes.

    Attributes:
      samples: On the device: the carry, the policy's trail and the last exit that each
        may wait for; leaves ``[B, ...]``.
      rows: Which samples of the data set they are, int ``[B]``.
      there: Whether a row is one of them, bool ``[B]``.
    """

    samples: Any
    rows: np.ndarray
    there: np.ndarray

    def count(self) -> int:
        return int(self.there.sum())


def _fill(emptier: _Batch, fuller: _Batch) -> tuple[_Batch, _Batch | None]:
    """Fills holes of one batch with samples of another, as far as either goes.

    Returns:
      The fuller one, whose buffers are used up, and what is left of the other, or None.
    """
    count = min(emptier.count(), len(fuller.there) - fuller.count())
    target = np.argsort(fuller.there, stable=True).astype(np.int32)  # holes first
    source = np.argsort(~emptier.there, stable=True).astype(np.int32)
    samples = _move(fuller.samples, emptier.samples, target, source, count)
    rows, there, left = fuller.rows.copy(), fuller.there.copy(), emptier.there.copy()
    target, source = target[:count], source[:count]
    rows[target], there[target], left[source] = emptier.rows[source], True, False
    rest = emptier._replace(there=left) if left.any() else None
    return _Batch(samples, rows, there), rest


@functools.cache
def _program(backbone: Backbone):
    """Returns the jitted stages, which all runs share."""
    return jax.jit(functools.partial(_stage, backbone), static_argnums=0)


def _stage(backbone, k, variables, policy, samples, there):
    carry, trail, latest_exit = samples  # at first inputs, and no trail
    if k == 0:
        trail = policy.init_trail(len(latest_exit))
        carry = backbone.stem(variables, carry)
    carry = backbone.stage(k, variables, carry)
    trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, latest_exit, there
    )
    return (carry, trail, latest_exit), there & ~leaves, (answer, score)


@functools.partial(jax.jit, donate_argnums=0)
def _move(
    into: Any, other: Any, target: jax.Array, source: jax.Array, count: int
) -> Any:
    """Puts the first ``count`` rows ``source`` of a tree into rows ``target``."""
    return jax.lax.platform_dependent(
        *(into, other, target, source, count), cpu=move_in_turn, default=move_at_once
    )


def move_in_turn(into, other, target, source, count):
    """Moves row by row: a CPU touches no other."""

    def put(i: jax.Array, into: Any) -> Any:
        def put_leaf(old: jax.Array, new: jax.Array) -> jax.Array:
            row = jax.lax.dynamic_index_in_dim(new, source[i])
            return jax.lax.dynamic_update_index_in_dim(old, row, target[i], 0)

        return jax.tree.map(put_leaf, into, other)

    return jax.lax.fori_loop(0, count, put, into)


def move_at_once(into, other, target, source, count):
    """Moves in one pass: an accelerator has bandwidth, and loops cost it launches."""
    size = len(target)
    target = jnp.where(jnp.arange(size) < count, target, size)
    return jax.tree.map(
        lambda old, new: old.at[target].set(new[source], mode="drop"), into, other
    )
