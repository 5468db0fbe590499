"""The training loop: chunks of steps, validation, checkpoints, exact resume."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from eenet_jax import checkpoint, distributed, processes
from eenet_jax import config as config_lib
from eenet_jax.config_fields import AFTER_TRAINING
from eenet_jax.data import datasets
from eenet_jax.data.datasets import Dataset
from eenet_jax.data.feeds import Feed, MemoryFeed
from eenet_jax.data.text_buckets import padding_waste
from eenet_jax.errors import Preempted, UserError
from eenet_jax.files import write_text
from eenet_jax.inference import Predictor
from eenet_jax.preemption import Notice
from eenet_jax.training.initial import initial_state
from eenet_jax.training.plan import Plan, build_plan, epoch_pieces
from eenet_jax.training.record import Recorder
from eenet_jax.training.step import TrainState
from eenet_jax.training.trace import Trace
from eenet_jax.writers import MetricWriter, NoWriter, Progress


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      step: Steps done in all.
      resumed_from: Step that it went on from: 0 for a fresh run, ``step`` for one that
        had been finished before.
      state: Parameters, optimiser and averages at the end.
      val_accuracy: Validation accuracy of each exit at the end, float64 ``[K]``.
    """

    step: int
    resumed_from: int
    state: TrainState
    val_accuracy: np.ndarray


def train(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    profile_steps: range | None = None,
) -> Result:
    """Trains a multi-exit backbone, going on from the latest checkpoint in ``workdir``.

    A run that was stopped at any point and started again ends with the parameters of
    one that was not: all that a step needs follows from the config and the step. All
    processes of a run call this at the same time.

    Args:
      config: See ``configs/default.py``.
      workdir: Directory of the run; made if it is not there.
      profile_steps: Steps, from 0, to write a trace of; see ``trace``.

    Returns:
      How it ended.

    Raises:
      UserError: If the config, the data, the workdir or a checkpoint is not usable, or
        the loss stops being finite.
      Preempted: If SIGTERM came; what was done is saved.
    """
    # What to run, and on what.
    config_lib.validate(config, num_devices=jax.device_count())
    workdir = pathlib.Path(workdir)
    check_workdir(config, workdir)
    mesh = distributed.data_mesh()
    dataset = config_lib.load_data(config)
    processes.check_same(f"the data of {dataset.name}", datasets.outlines(dataset))
    plan = build_plan(config, dataset, mesh)
    predictor = Predictor(
        plan.backbone,
        dataset,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        num_workers=config.data.num_workers,
    )

    # From the start, or from where it was.
    key_init, key_run = jax.random.split(jax.random.key(config.seed))
    start = latest_step(workdir)
    if start:
        state = checkpoint.restore(workdir, start, abstract_state(plan))
    else:
        state = initial_state(config, plan, key_init, mesh)
    processes.wait("before the first process writes to the workdir")
    claim_workdir(config, workdir)
    if start >= plan.total_steps or _stopped(config, state):
        accuracy = predictor.accuracy(state.eval_variables, dataset.val)
        return Result(start, start, state, accuracy)

    # Epoch by epoch.
    if dataset.kind == "text":
        waste = padding_waste(dataset.train.lengths, dataset.boundaries)
        processes.say(
            f"length buckets: {', '.join(map(str, dataset.boundaries))} tokens; "
            f"{waste:.0%} of what is computed in training is padding"
        )
    feed = plan.feed
    if feed is None:
        feed = _cached_feed(config, plan, predictor, state.variables, dataset, mesh)
    first = processes.is_first()
    recorder = Recorder(
        MetricWriter(workdir, start) if first else NoWriter(),
        Progress(plan.total_steps, start, "step", shown=first),
        schedule=plan.schedule,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=config.train.batch_size,
        metric=dataset.metric,
    )
    trace = Trace(profile_steps, workdir)
    step, saved_at, accuracy = start, start, np.zeros(plan.backbone.num_exits)
    try:
        with (
            Notice() as notice,
            checkpoint.open_checkpoints(workdir, clean=True) as saved,
            processes.ending_together(),  # without waiting for the checkpoints
        ):
            run_epoch = _epoch_runner(
                config, plan, feed, mesh, recorder, key_run, notice, trace
            )
            while step < plan.total_steps:
                epoch = step // plan.steps_per_epoch
                state, step = run_epoch(state, step)
                if step < min((epoch + 1) * plan.steps_per_epoch, plan.total_steps):
                    recorder.flush()
                    if step > saved_at:
                        checkpoint.save(saved, step, state, checkpoint.UNVALIDATED)
                    raise Preempted(
                        f"stopped by SIGTERM; step {step} of {plan.total_steps} is "
                        "saved, and the same command goes on from there"
                    )
                due = (epoch + 1) % config.train.eval_epochs == 0
                if due or step >= plan.total_steps:
                    recorder.flush()
                    latest = state.latest_variables
                    accuracy = predictor.accuracy(latest, dataset.val)
                    recorder.validation(step, accuracy)
                    if state.best is not None:
                        state = state.replace(best=state.best.update(latest, accuracy))
                        accuracy[: plan.heads] = state.best.accuracy
                    checkpoint.save(saved, step, state, float(accuracy.mean()))
                    saved_at = step
                if due and _stopped(config, state):
                    break
    finally:
        trace.close()
        feed.close()
        recorder.close()
    return Result(step, start, state, accuracy)


def _stopped(config: ml_collections.ConfigDict, state: TrainState) -> bool:
    """Says whether all heads have stopped early."""
    return state.best is not None and state.best.stopped(config.train.patience)


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Refuses a workdir in which a run of another config has left checkpoints.

    Raises:
      UserError: Naming the fields that differ.
    """
    if not (workdir / "config.json").exists() or not checkpoint.saved_steps(workdir):
        return
    different = [
        line
        for line in config_lib.differences(config, config_lib.read(workdir))
        if not line.startswith(tuple(f"{field}:" for field in AFTER_TRAINING))
    ]
    if different:
        raise UserError(
            f"--workdir={workdir} belongs to a run of another config:\n  "
            + "\n  ".join(different)
            + "\nchoose another --workdir, or give these fields the values there"
        )


def claim_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the workdir, with ``config.json`` in it; the first process alone does.

    Raises:
      UserError: If it cannot be written.
    """
    if not processes.is_first():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(workdir / "config.json", config_lib.to_json(config))
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written: {error}; choose another"
        ) from None


def latest_step(workdir: pathlib.Path) -> int:
    """Returns the steps that the latest whole checkpoint has done; 0 without one."""
    return max(checkpoint.saved_steps(workdir), default=0)


def abstract_state(plan: Plan) -> TrainState:
    """Returns the shapes, types and shardings of a run's state."""
    return jax.eval_shape(plan.init, jax.random.key(0))


def _epoch_runner(
    config: ml_collections.ConfigDict,
    plan: Plan,
    feed: Feed,
    mesh: jax.sharding.Mesh,
    recorder: Recorder,
    key: jax.Array,
    notice: Notice,
    trace: Trace,
) -> Callable[[TrainState, int], tuple[TrainState, int]]:
    """Returns ``(state, step) -> (state, step)`` that takes the rest of one epoch.

    Less of it where the run is told to stop.
    """
    key = distributed.replicate(key, mesh)

    def run_epoch(state: TrainState, step: int) -> tuple[TrainState, int]:
        epoch, first = divmod(step, plan.steps_per_epoch)
        count = min(plan.steps_per_epoch - first, plan.total_steps - step)
        for start, end in epoch_pieces(count, config.train.log_steps):
            span = (first + start, first + end)
            metrics = []
            for call in feed.calls(epoch, *span, plan.steps_per_call):
                if notice.reached(step, step + call.steps):
                    if metrics:
                        recorder.chunk(step, metrics, feed.input_wait())
                    return state, step
                trace.before(step, call.steps)
                state, result = plan.run_chunk(state, *call, key=key)
                metrics.append(result)
                step += call.steps
                trace.after(step, state)
            recorder.chunk(step, metrics, feed.input_wait())
        return state, step

    return run_epoch


def _cached_feed(
    config: ml_collections.ConfigDict,
    plan: Plan,
    predictor: Predictor,
    variables: Any,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
) -> MemoryFeed:
    """Computes what the trained heads read, once for the whole run."""
    features = predictor.head_inputs(variables, dataset.train, plan.heads)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(features)) / 2**30
    processes.say(
        f"features of the frozen network: {size:.2g} GiB, kept (no augmentation)"
    )
    return MemoryFeed(
        [(features, dataset.train.labels)],
        seed=config.seed,
        batch_size=config.train.batch_size,
        mesh=mesh,
    )
