"""Does the compiled policy really save, and how near is it to the ideal?

    python -m benchmarks.adaptive [--models=resnet56_3] [--batch_sizes=256]
    python -m benchmarks.adaptive --workdir=DIR --mixes="nobody;even;early"

For each network, batch size and mix of exits: the wall time of a batch under a policy
that lets these shares leave, of the full network, and the ideal: for each stage the
share that is left times its profiled time in a whole batch. The three take turns.
Weights are fresh, or a trained run's; thresholds are set on the batch's own scores, so
shares are exact but for ties.
Also: the same batch over and over with queues in front of the stages, so that these
run full however few are left (the mean, with what is in the queues at the end); what
compiling took, and exit 0 alone beside its own compiled prefix when everyone leaves
there.
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from eenet_jax import backbones, memory, trained
from eenet_jax.adaptive import unasked_ms
from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.profile import measure_profile
from eenet_jax.data import inputs
from eenet_jax.predictions import Split
from eenet_jax.runtime.plan import ideal_ms, plan_ladders
from eenet_jax.runtime.queues import Queues
from eenet_jax.runtime.staged import exit_alone, program
from eenet_jax.schedulers.evidence import max_prob
from eenet_jax.schedulers.policy import Policy
from eenet_jax.stopwatch import take_turns

NEVER = 2.0  # no probability reaches it; the head is run all the same
MIXES = "0.25,0.25,0.5;0.5,0.25,0.25;0.75,0.15,0.1"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet56_3")
    parser.add_argument("--workdir", help="a trained run, instead of --models")
    parser.add_argument("--batch_sizes", default="256")
    parser.add_argument(
        "--mixes",
        default=MIXES,
        help="shares of the first exits, the rest goes to the last; ...; or nobody, "
        "even, early (four fifths at the first four)",
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=0, help="0: the network's")
    parser.add_argument("--tokens", type=int, default=32, help="of texts")
    parser.add_argument("--dtype", default="float32", help="or bfloat16")
    args = parser.parse_args()
    if jax.default_backend() == "cpu":
        memory.keep_freed()
    cores = len(os.sched_getaffinity(0))
    print(
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__} on "
        f"{jax.devices()[0].device_kind}, {cores} cores, {args.dtype}"
    )
    for batch_size in map(int, args.batch_sizes.split(",")):
        if args.workdir:
            measure(*trained_network(args.workdir, batch_size), args)
            continue
        for name in args.models.split(","):
            measure(*fresh_network(name, batch_size, args), args)


def trained_network(workdir: str, batch_size: int) -> tuple[Backbone, Any, Any]:
    """Returns a run's network, its variables and a batch of its test part."""
    run = trained.load_trained(workdir)
    batches = inputs.eval_batches(run.dataset, run.dataset.test, batch_size, 0)
    x = jax.jit(inputs.prepare_eval(run.dataset))(next(iter(batches)).inputs)
    return run.backbone, run.variables, x


def fresh_network(
    name: str, batch_size: int, args: argparse.Namespace
) -> tuple[Backbone, Any, Any]:
    """Returns a network, fresh variables and a batch of noise."""
    backbone = backbones.build(name, num_classes=args.num_classes, dtype=args.dtype)
    rng = np.random.default_rng(0)
    if backbone.input_kind == "text":
        shape = (batch_size, args.tokens)
        ids = jnp.asarray(rng.integers(0, backbone.vocab_size, shape), jnp.int32)
        x = {"ids": ids, "mask": jnp.ones_like(ids)}
    else:
        side = args.image_size or backbone.module.image_size
        x = jnp.asarray(rng.standard_normal((batch_size, side, side, 3)), jnp.float32)
    one = jax.tree.map(lambda leaf: leaf[:1], x)
    return backbone, jax.jit(backbone.init)(jax.random.key(0), one), x


def measure(backbone: Backbone, variables: Any, x: Any, args: Any) -> None:
    """Times one network at one batch size and prints a block."""
    batch_size = jax.tree.leaves(x)[0].shape[0]
    logits = jax.jit(lambda v, x: backbone.apply(v, x)[0])(variables, x)
    scores = np.asarray(max_prob(logits))
    split = Split(np.asarray(logits), np.zeros(batch_size, np.int32))
    profile = measure_profile(backbone, variables, x, repeats=args.repeats)
    plan = plan_ladders(profile)
    print(f"\n{backbone.name}, batch {batch_size}: {plan.reason}")
    last = backbone.num_exits - 1
    full, first = exit_alone(backbone, last), exit_alone(backbone, 0)
    run = program(backbone, plan.ladders, None)
    latest = jnp.full(batch_size, last, jnp.int32)
    mixes = [shares_of(mix, last + 1) for mix in args.mixes.split(";")]
    at_once = [1.0] + [0.0] * last
    policies = [thresholds_for(scores, mix) for mix in (*mixes, at_once)]
    queues = [Queues(backbone, variables, policy, batch_size) for policy in policies]

    compiled = [
        seconds(lambda: run.lower(variables, policies[0], x, latest).compile()),
        seconds(lambda: full.lower(variables, x).compile()),
        seconds(lambda: queues[0].compile(x)),
    ]
    rungs = sum(1 if isinstance(i, int) else len(i) for i in plan.ladders)
    print(
        f"  compiled in {compiled[0]:.1f} s ({rungs} sizes), the full network "
        f"{compiled[1]:.1f} s, stages for queues {compiled[2]:.1f} s"
    )

    timed = {"full": lambda: full(variables, x), "first": lambda: first(variables, x)}
    for i, policy in enumerate(policies):
        timed[i] = lambda policy=policy: run(variables, policy, x, latest)
    times = take_turns(timed, args.repeats)
    everyone = np.arange(batch_size), np.ones(batch_size, bool)
    times |= take_turns(  # by themselves: many programs leave no memory warm
        {
            ("queues", i): lambda queue=queue: queue.add(*everyone, x)
            for i, queue in enumerate(queues)
        },
        args.repeats,
    )
    medians = {what: float(np.median(values)) for what, values in times.items()}
    for i, (policy, queue) in enumerate(zip(policies, queues, strict=True)):
        found = np.asarray(run(variables, policy, x, latest).exit_index)
        shares = np.bincount(found, minlength=last + 1) / batch_size
        unasked = unasked_ms(profile, policy, split)
        ideal = ideal_ms(profile, plan.ladders, shares, unasked) * batch_size
        rest = 1e3 * seconds(queue.flush) / args.repeats
        queued = times["queues", i].mean() + rest
        print(
            f"  shares {' '.join(f'{share:.2f}' for share in shares)}: ideal "
            f"{ideal:.2f} ms, full {medians['full']:.2f}"
        )
        for way, ms in (("batch by batch", medians[i]), ("with queues", queued)):
            print(
                f"    {way}: {ms:.2f} ms; ratio wall / ideal: {ms / ideal:.2f}, "
                f"full / wall: {medians['full'] / ms:.2f}"
            )
    ratio = medians[len(policies) - 1] / medians["first"]
    print(f"  ratio exit 0 for all / its own prefix: {ratio:.2f}")


def seconds(call: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def shares_of(mix: str, num_exits: int) -> list[float]:
    """Reads a mix: shares of the first exits, or its name."""
    if mix in ("nobody", "even", "early"):
        even, early = [1 / num_exits] * num_exits, [0.2] * 4 + [0.2]
        return {"nobody": [1.0], "even": even, "early": early}[mix]
    return [float(share) for share in mix.split(",")]


def thresholds_for(scores: np.ndarray, mix: list[float]) -> Policy:
    """Returns the policy on max probability by which these shares of a batch leave.

    Args:
      scores: ``[K, B]``.
      mix: Share that leaves at each of the first exits; the rest at the last.
    """
    num_exits, batch_size = scores.shape
    there, thresholds = np.ones(batch_size, bool), []
    for k in range(num_exits - 1):
        share = mix[k] if k < len(mix) - 1 or len(mix) == num_exits else 0.0
        count = min(round(share * batch_size), int(there.sum()))
        ordered = np.sort(scores[k][there])[::-1]
        threshold = ordered[count - 1] if count else NEVER
        thresholds.append(threshold)
        there &= scores[k] < threshold
    return Policy("max_prob", {}, jnp.array([*thresholds, -np.inf], jnp.float32))


if __name__ == "__main__":
    main()
