"""Policies run for real over a test set: wall time, and the decisions they took."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.costs.profile import Profile, load_profile, measure_profile
from eenet_jax.data import inputs
from eenet_jax.measure import Run
from eenet_jax.predictions import Predictions
from eenet_jax.runtime.plan import Plan, ideal_ms, plan_ladders
from eenet_jax.runtime.replay import simulate
from eenet_jax.runtime.staged import program
from eenet_jax.schedulers.policy import Policy
from eenet_jax.stopwatch import Stopwatch
from eenet_jax.trained import Trained, load_trained
from eenet_jax.writers import Progress

NEAR = 1e-5  # a score so near to its threshold may fall on either side


def runner(
    workdir: str | pathlib.Path,
    which: str,
    predictions: Predictions,
    profile: str | None,
) -> Run:
    """Returns what runs policies on a run's network.

    Args:
      workdir: The run's directory.
      which: "best", "latest" or a step.
      predictions: Of that checkpoint.
      profile: File of the device's profile; None to measure it for the config's
        ``eval.batch_size``.
    """
    run = load_trained(workdir, which)
    if profile is None:
        measured = profile_run(run, batch_size=run.config.eval.batch_size)
    else:
        measured = load_profile(profile, run.backbone)
    return lambda policies: run_policies(run, policies, predictions, measured)


def profile_run(trained: Trained, *, batch_size: int, repeats: int = 20) -> Profile:
    """Times the stages of a trained network on the device at hand."""
    x = jax.tree.map(
        lambda leaf: jnp.ones(leaf.shape, leaf.dtype), trained.example(batch_size)
    )
    return measure_profile(trained.backbone, trained.variables, x, repeats=repeats)


def run_policies(
    trained: Trained,
    policies: Sequence[Policy],
    predictions: Predictions,
    profile: Profile,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Runs policies, the full network and every single exit over the test part.

    All take turns at each batch, so that a drift of the machine's speed meets them
    alike; each has seen a batch of its shape before it is timed.

    Args:
      trained: The network and its data.
      policies: To run.
      predictions: Of this network; what is decided is compared with them.
      profile: Of the device at hand; its batch size is used.

    Returns:
      For each policy the fields that its record gets, and what holds for all.
    """
    backbone, dataset = trained.backbone, trained.dataset
    plan = plan_ladders(profile)
    runs: list[Callable[[Any], Any]] = [
        _alone(backbone, trained.variables, k) for k in range(backbone.num_exits)
    ]
    compiled = program(backbone, plan.ladders, None)
    latest = np.full(profile.batch_size, backbone.num_exits - 1, np.int32)
    runs += [
        lambda x, policy=policy: compiled(trained.variables, policy, x, latest)
        for policy in map(jax.device_put, policies)
    ]
    watches = [Stopwatch() for _ in runs]
    num_samples = len(dataset.test.labels)
    exits = np.zeros((len(policies), num_samples), np.int32)
    labels = np.zeros_like(exits)
    prepare = jax.jit(inputs.prepare_eval(dataset))
    batches = inputs.eval_batches(
        dataset, dataset.test, profile.batch_size, trained.config.data.num_workers
    )
    count = inputs.num_eval_batches(dataset, dataset.test, profile.batch_size)
    progress, seen = Progress(count, 0, "batch"), set()
    for batch in batches:
        x = jax.block_until_ready(prepare(batch.inputs))
        shape = str(jax.tree.map(np.shape, x))
        real = batch.mask.astype(bool)
        for i, (run, watch) in enumerate(zip(runs, watches, strict=True)):
            if shape not in seen:
                jax.block_until_ready(run(x))
            answers = watch.time(run, x, samples=int(real.sum()))
            if i >= backbone.num_exits:
                rows = (i - backbone.num_exits, batch.rows[real])
                exits[rows] = np.asarray(answers.exit_index)[real]
                labels[rows] = np.asarray(answers.label)[real]
        seen.add(shape)
        progress.update(1, "adaptive")
    progress.close()
    alone = [watch.summary() for watch in watches[: backbone.num_exits]]
    records = []
    for policy, own_exits, own_labels, watch in zip(
        policies, exits, labels, watches[backbone.num_exits :], strict=True
    ):
        shares = np.bincount(own_exits, minlength=backbone.num_exits) / num_samples
        timed = watch.summary()
        records.append(
            {
                "wall_ms_per_sample": timed["ms_per_sample"],
                "full_wall_ms_per_sample": alone[-1]["ms_per_sample"],
                "ideal_wall_ms_per_sample": ideal_ms(profile, plan.ladders, shares),
                "device": profile.device,
                "batch_ms": timed["batch_ms"],
                "samples_per_second": timed["samples_per_second"],
                "adaptive_accuracy": float((own_labels == dataset.test.labels).mean()),
                **_agreement(policy, predictions, own_exits, own_labels),
            }
        )
    return records, _common(profile, plan, alone)


def _alone(backbone, variables, last: int) -> Callable[[Any], Any]:
    """Returns a run of the network with exit ``last`` and no other."""

    @jax.jit
    def run(variables, x):
        carry = backbone.stem(variables, x)
        for k in range(last + 1):
            carry = backbone.stage(k, variables, carry)
        return backbone.head(last, variables, carry)

    return lambda x: run(variables, x)


def _agreement(
    policy: Policy, predictions: Predictions, exits: np.ndarray, labels: np.ndarray
) -> dict[str, int]:
    """Compares what was run with what saved predictions say would be."""
    replayed = simulate(policy, predictions.test, predictions.costs)
    other = (replayed.exit_index != exits) | (replayed.labels != labels)
    first = np.minimum(replayed.exit_index, exits)
    there = np.arange(len(exits))
    thresholds = np.asarray(policy.thresholds)
    distance = np.abs(replayed.scores[first, there] - thresholds[first])
    near = other & (distance <= NEAR)
    return {
        "decided_otherwise": int((other & ~near).sum()),
        "decided_otherwise_near_threshold": int(near.sum()),
    }


def _common(
    profile: Profile, plan: Plan, alone: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "plan": plan.reason,
        "ladders": [list(ladder) for ladder in plan.ladders],
        "batch_size": profile.batch_size,
        "versions": profile.versions,
        "dtype": profile.dtype,
        "exits_alone": alone,
    }
