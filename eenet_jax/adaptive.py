"""Policies run for real over a test set: wall time, and the decisions they took."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.profile import Profile, load_profile, measure_profile
from eenet_jax.data import inputs
from eenet_jax.data.inputs import EvalBatch
from eenet_jax.iou import mean_iou
from eenet_jax.map_inference import confusion
from eenet_jax.measure import Run
from eenet_jax.predictions import TINY, Predictions, Split
from eenet_jax.runtime.plan import Plan, ideal_ms, plan_ladders
from eenet_jax.runtime.prediction import Prediction
from eenet_jax.runtime.queues import Queues
from eenet_jax.runtime.replay import simulate
from eenet_jax.runtime.staged import exit_alone, program
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
    *,
    int8: bool = False,
    blocks: str = "",
) -> Run:
    """Returns what runs policies on a run's network.

    Args:
      workdir: The run's directory.
      which: "best", "latest" or a step.
      predictions: Of that checkpoint.
      profile: File of the device's profile; None to measure it for the config's
        ``eval.batch_size``.
      int8: Whether to run the network in int8.
      blocks: As ``load_trained`` takes it.
    """
    run = load_trained(workdir, which, int8=int8, blocks=blocks)
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

    The full network and single exits run on whole images, policies on their blocks if
    that is what samples are.

    Policies run batch by batch, and once more with queues before the stages. All take
    turns at each batch, so that a drift of the machine's speed meets them alike; each
    has seen a batch of its shape before it is timed.

    Args:
      trained: The network and its data.
      policies: To run.
      predictions: Of this network; what is decided is compared with them.
      profile: Of the device at hand; its batch size is used.

    Returns:
      For each policy the fields that its record gets, and what holds for all.
    """
    backbone, test = trained.backbone, trained.dataset.test
    num_exits, blocks = backbone.num_exits, backbone.samples_per_input
    plan = plan_ladders(profile)
    compiled = program(backbone, plan.ladders, None)
    latest = np.full(profile.batch_size, num_exits - 1, np.int32)
    runs = [
        functools.partial(exit_alone(backbone.whole, k), trained.variables)
        for k in range(num_exits)
    ]
    runs += [
        lambda x, policy=policy: compiled(trained.variables, policy, x, latest)
        for policy in map(jax.device_put, policies)
    ]
    queues = [
        Queues(
            backbone,
            trained.variables,
            policy,
            test.num_samples * blocks,
            keep_logits=backbone.output_kind == "class",  # maps are too large
        )
        for policy in map(jax.device_put, policies)
    ]
    batch_size = profile.batch_size // blocks
    watches, answers = _take_turns(trained, runs, queues, batch_size)
    times = [watch.summary() for watch in watches]
    count = num_exits + len(policies)
    records = []
    for policy, timed, found, queued, queue in zip(
        policies, times[num_exits:count], answers, times[count:], queues, strict=True
    ):
        shares = np.bincount(found.exits, minlength=num_exits) / len(found.exits)
        records.append(
            {
                "wall_ms_per_sample": timed["ms_per_sample"],
                "full_wall_ms_per_sample": times[num_exits - 1]["ms_per_sample"],
                "ideal_wall_ms_per_sample": blocks
                * ideal_ms(
                    profile,
                    plan.ladders,
                    shares,
                    unasked_ms(profile, policy, predictions.test),
                ),
                "device": profile.device,
                "batch_ms": timed["batch_ms"],
                "samples_per_second": timed["samples_per_second"],
                "adaptive_accuracy": found.accuracy,
                **agreement(policy, predictions.test, found.exits, found.answers),
                "queued": {
                    "ms_per_sample": queued["ms_per_sample"],
                    "samples_per_second": queued["samples_per_second"],
                    **agreement(
                        policy,
                        predictions.test,
                        queue.exit_index,
                        None if found.answers is None else queue.prediction().label,
                    ),
                },
            }
        )
    return records, _common(profile, plan, times[:num_exits])


class Found(NamedTuple):
    """What was found of a policy that was run over the test part.

    Attributes:
      exits: Exits taken, int32 ``[N]``.
      answers: Classes answered, int32 ``[N]``; None where every pixel has one.
      accuracy: Share of right answers, or the mean IoU.
    """

    exits: np.ndarray
    answers: np.ndarray | None
    accuracy: float


def _take_turns(
    trained: Trained,
    runs: Sequence[Callable[[Any], Any]],
    queues: Sequence[Queues],
    batch_size: int,
) -> tuple[list[Stopwatch], list[Found]]:
    """Calls every function on every batch of the test part, and queues it.

    Returns:
      The times of functions and queues, and what the last functions, as many as there
      are queues, found.
    """
    dataset, backbone = trained.dataset, trained.backbone
    watches = [Stopwatch() for _ in (*runs, *queues)]
    answers: list[list[Any]] = [[] for _ in queues]
    policies = len(runs) - len(queues)  # functions before are of one exit each
    order = []
    prepare, seen = jax.jit(inputs.prepare_eval(dataset)), set()
    count = inputs.num_eval_batches(dataset, dataset.test, batch_size)
    progress = Progress(count, 0, "batch")
    for batch in inputs.eval_batches(
        dataset, dataset.test, batch_size, trained.config.data.num_workers
    ):
        x = jax.block_until_ready(prepare(batch.inputs))
        shape = str(jax.tree.map(np.shape, x))
        samples = int(batch.mask.sum())
        rows, real = _of_samples(batch, backbone.samples_per_input)
        order.append(rows[real])
        for i, (run, watch) in enumerate(zip(runs, watches, strict=False)):
            if shape not in seen:
                jax.block_until_ready(run(x))
            found = watch.time(run, x, samples=samples)
            if i >= policies:
                kept = _kept(backbone, found, batch.labels)
                parts = [np.asarray(leaf)[real] for leaf in kept]
                answers[i - policies].append(parts)
        for queue, watch in zip(queues, watches[len(runs) :], strict=True):
            if shape not in seen:
                queue.compile(x)
            watch.time(queue.add, rows, real, x, samples=samples)
        seen.add(shape)
        progress.update(1, "adaptive")
    for queue, watch in zip(queues, watches[len(runs) :], strict=True):
        watch.time(queue.flush, samples=0)
    progress.close()
    place = np.argsort(np.concatenate(order))  # texts come by length
    return watches, [_found(parts, place) for parts in answers]


def _of_samples(batch: EvalBatch, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which samples are in a batch of images, or of their blocks; and mask."""
    rows = batch.rows[:, None] * blocks + np.arange(blocks)[None]
    return rows.ravel(), np.repeat(batch.mask.astype(bool), blocks)


def _kept(
    backbone: Backbone, found: Prediction, labels: np.ndarray
) -> tuple[Any, Any, Any]:
    """Returns exits, answers and labels of a batch; of maps confusion matrices."""
    if labels.ndim == 1:
        return found.exit_index, found.label, labels
    if backbone.samples_per_input > 1:
        labels = backbone.cut_labels(labels, found.probs.shape[1:3])
    logits = jnp.log(jnp.maximum(found.probs, TINY))  # enlarged: 0 times -inf is NaN
    counts = _confusion(logits[None], labels)[0]
    return found.exit_index, counts, counts


_confusion = jax.jit(confusion)


def _found(parts: Sequence[Sequence[np.ndarray]], place: np.ndarray) -> Found:
    """Puts the batches of a policy together, in the order of the test part."""
    exits, answers, labels = (
        np.concatenate(of_all)[place] for of_all in zip(*parts, strict=True)
    )
    if labels.ndim == 3:
        return Found(exits, None, float(mean_iou(labels.sum(axis=0))))
    return Found(exits, answers, float((answers == labels).mean()))


def unasked_ms(profile: Profile, policy: Policy, split: Split) -> float:
    """Returns the mean time of the heads that a policy passes by on the way."""
    prices = profile.exit_costs()
    found = simulate(policy, split, prices.costs, prices.head_costs)
    return float(prices.costs[found.exit_index].mean() - found.mean_cost)


def agreement(
    policy: Policy, split: Split, exits: np.ndarray, labels: np.ndarray | None
) -> dict[str, int]:
    """Compares what was run with what saved predictions say would be.

    Args:
      policy: That was run.
      split: Logits of the same N samples.
      exits: Exits taken, ``[N]``.
      labels: Answers, ``[N]``; None to compare exits only.

    Returns:
      How many were decided otherwise, and how many of these with a score so near to
      the threshold that rounding explains it, which are not counted in the first.
    """
    replayed = simulate(policy, split, np.zeros(policy.num_exits))
    other = replayed.exit_index != exits
    if labels is not None:
        other |= replayed.labels != labels
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
        "ladders": plan.ladders,
        "batch_size": profile.batch_size,
        "versions": profile.versions,
        "dtype": profile.dtype,
        "exits_alone": alone,
    }
