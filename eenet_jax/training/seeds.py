"""Runs that differ in their seed alone, trained side by side by one program.

Accelerators take a step of all runs at once, mapped over the seeds (``vmap``), which
fills a device that one small network leaves idle. XLA's CPU compiler makes grouped
convolutions of mapped ones, which are slower than one after the other, and convolutions
in a loop are slower still; so on CPUs the runs take turns at each step, and what is
saved is compiling.
"""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from eenet_jax import checkpoint, distributed
from eenet_jax import config as config_lib
from eenet_jax.data import inputs
from eenet_jax.data.feeds import Call, MemoryFeed
from eenet_jax.errors import Preempted, UserError
from eenet_jax.inference import Predictor
from eenet_jax.preemption import Notice
from eenet_jax.training import loop
from eenet_jax.training.initial import initial_state
from eenet_jax.training.plan import Plan, build_plan, epoch_pieces
from eenet_jax.training.record import Recorder
from eenet_jax.training.step import TrainState
from eenet_jax.writers import MetricWriter, Progress


class InTurn:
    """States of S runs whose steps one compiled program takes one after the other.

    Args:
      plan: Of all runs.
      states: Of each, S.
      keys: Likewise.
    """

    def __init__(
        self, plan: Plan, states: Sequence[TrainState], keys: Sequence[jax.Array]
    ):
        self._plan, self._keys, self.states = plan, keys, list(states)

    def take(self, calls: Sequence[Call]) -> list[Any]:
        """Takes a call of each run; returns their metrics."""
        metrics = []
        for i, (call, key) in enumerate(zip(calls, self._keys, strict=True)):
            self.states[i], found = self._plan.run_chunk(self.states[i], *call, key=key)
            metrics.append(found)
        return metrics


class SideBySide:
    """States of S runs whose steps one program takes at once; arguments as above."""

    def __init__(
        self, plan: Plan, states: Sequence[TrainState], keys: Sequence[jax.Array]
    ):
        def one(state, rows, key, inputs, labels):
            return plan.run_chunk(state, inputs, labels, rows, key=key)

        mapped = jax.vmap(one, in_axes=(0, 0, 0, None, None))
        self._run = jax.jit(mapped, donate_argnums=0)
        self._keys = jnp.stack(keys)
        self._state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    @property
    def states(self) -> list[TrainState]:
        """The runs' states, one each."""
        return _apart(self._state, len(self._keys))

    def take(self, calls: Sequence[Call]) -> list[Any]:
        """Takes a call of each run; returns their metrics. All have the same data."""
        rows = jnp.stack([call.rows for call in calls])
        data = calls[0].inputs, calls[0].labels
        self._state, metrics = self._run(self._state, rows, self._keys, *data)
        return _apart(metrics, len(calls))


class _Run(NamedTuple):
    """What is each run's own."""

    seed: int
    feed: MemoryFeed
    recorder: Recorder
    saved: Any


def train_seeds(
    configs: Sequence[ml_collections.ConfigDict], folders: Sequence[pathlib.Path]
) -> None:
    """Trains runs of different seeds together; each is then as ``loop.train`` left it.

    Runs that have been finished, or of which one is ahead of another since the process
    was stopped while it saved, are left for ``loop.train`` to go on with.

    Args:
      configs: Of the runs, which differ in ``seed``.
      folders: Their workdirs.

    Raises:
      UserError: As ``loop.train``, naming the seed, which stops all; or if the runs
        cannot be trained together.
      Preempted: As ``loop.train``; all are saved at the same step.
    """
    config = configs[0]
    config_lib.validate(config, num_devices=jax.device_count())
    for each, folder in zip(configs, folders, strict=True):
        loop.check_workdir(each, folder)
    starts = {loop.latest_step(folder) for folder in folders}
    mesh, dataset = distributed.data_mesh(), config_lib.load_data(config)
    plan = build_plan(config, dataset, mesh)
    _check(config, plan, dataset.kind, len(configs))
    start = starts.pop()
    if starts or start >= plan.total_steps:
        return
    keys = [jax.random.split(jax.random.key(each.seed)) for each in configs]
    states = []
    for each, folder, key in zip(configs, folders, keys, strict=True):
        if start:
            abstract = loop.abstract_state(plan)
            states.append(checkpoint.restore(folder, start, abstract))
        else:
            states.append(initial_state(each, plan, key[0], mesh))
        loop.claim_workdir(each, folder)
    kind = InTurn if jax.default_backend() == "cpu" else SideBySide
    together = kind(plan, states, [key[1] for key in keys])
    predictor = Predictor(
        plan.backbone, dataset, batch_size=config.eval.batch_size, mesh=mesh
    )
    groups = inputs.train_groups(dataset, config.train.batch_size)
    groups = distributed.replicate(groups, mesh)  # one copy for all feeds
    with contextlib.ExitStack() as stack:
        runs = []
        for i, (each, folder) in enumerate(zip(configs, folders, strict=True)):
            recorder = Recorder(
                MetricWriter(folder, start),
                Progress(plan.total_steps, start, "step", shown=i == 0),
                schedule=plan.schedule,
                steps_per_epoch=plan.steps_per_epoch,
                batch_size=config.train.batch_size,
                metric=dataset.metric,
            )
            stack.callback(recorder.close)
            feed = MemoryFeed(
                groups,
                seed=each.seed,
                batch_size=config.train.batch_size,
                mesh=mesh,
            )
            saved = checkpoint.open_checkpoints(folder, clean=True)
            runs.append(_Run(each.seed, feed, recorder, stack.enter_context(saved)))
        notice = stack.enter_context(Notice())
        step = saved_at = start
        while step < plan.total_steps:
            epoch = step // plan.steps_per_epoch + 1
            step = _epoch(config, plan, together, runs, step, notice)
            if step < min(epoch * plan.steps_per_epoch, plan.total_steps):
                if step > saved_at:
                    _save_unvalidated(runs, together.states, step)
                raise Preempted(
                    f"stopped by SIGTERM; step {step} of {plan.total_steps} of all "
                    "seeds is saved, and the same command goes on from there"
                )
            if epoch % config.train.eval_epochs and step < plan.total_steps:
                continue
            for run, state in zip(runs, together.states, strict=True):
                with _naming(run.seed):
                    run.recorder.flush()
                accuracy = predictor.accuracy(state.latest_variables, dataset.val)
                run.recorder.validation(step, accuracy)
                checkpoint.save(run.saved, step, state, float(accuracy.mean()))
            saved_at = step


def _epoch(
    config: ml_collections.ConfigDict,
    plan: Plan,
    together: InTurn | SideBySide,
    runs: Sequence[_Run],
    step: int,
    notice: Notice,
) -> int:
    """Takes the rest of an epoch, less where it is to stop; returns the steps done."""
    epoch, first = divmod(step, plan.steps_per_epoch)
    count = min(plan.steps_per_epoch - first, plan.total_steps - step)
    for start, end in epoch_pieces(count, config.train.log_steps):
        span = epoch, first + start, first + end, plan.steps_per_call
        metrics: list[list[Any]] = [[] for _ in runs]
        stopped = False
        for calls in zip(*(run.feed.calls(*span) for run in runs), strict=True):
            stopped = notice.reached(step, step + calls[0].steps)
            if stopped:
                break
            for of_run, found in zip(metrics, together.take(calls), strict=True):
                of_run.append(found)
            step += calls[0].steps
        for run, of_run in zip(runs, metrics, strict=True):
            with _naming(run.seed):
                if of_run:
                    run.recorder.chunk(step, of_run)
        if stopped:
            break
    return step


def _save_unvalidated(
    runs: Sequence[_Run], states: Sequence[TrainState], step: int
) -> None:
    for run, state in zip(runs, states, strict=True):
        with _naming(run.seed):
            run.recorder.flush()
        checkpoint.save(run.saved, step, state, checkpoint.UNVALIDATED)


@contextlib.contextmanager
def _naming(seed: int) -> Iterator[None]:
    """Says whose mistake it is, and how the other seeds can go on."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"seed={seed}: {error}; --sweep=seed lets the other seeds go on"
        ) from None


def _check(
    config: ml_collections.ConfigDict, plan: Plan, kind: str, count: int
) -> None:
    if jax.process_count() > 1:
        raise UserError(f"vmap_seeds={count} is for one process; leave out one of both")
    in_memory = isinstance(plan.feed, MemoryFeed) and kind == "image"
    if not in_memory or config.train.patience:
        raise UserError(
            f"vmap_seeds={count} is for networks that train on images in memory, "
            "without train.patience; train these by --sweep=seed"
        )


def _apart(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]
