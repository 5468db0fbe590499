"""Does the compiled policy really save, and how near is it to the ideal?

    python -m benchmarks.adaptive [--models=resnet56_3] [--batch_sizes=256]
    python -m benchmarks.adaptive --workdir=DIR --mixes="nobody;even;early"

For each network, batch size and mix of exits: the wall time of a batch under a policy
that lets these shares leave, of the full network, and the ideal: for each stage the
share that is left times its profiled time in a whole batch. Weights are fresh, or a
trained run's; thresholds are set on the batch's own scores, so shares are exact but for
ties.
The policy runs batch by batch, and with queues in front of the stages, so that these
run full however few are left. Each runs over the batch --repeats times in a row, as
over a data set, queues being emptied at the end. Then the next has its turn; --rounds
of them, each with a profile of its own, so that a drift of the machine's speed meets
all alike. Medians over the rounds are printed.
Also: what compiling took, and exit 0 alone beside its own compiled prefix when everyone
leaves there.
"""

import argparse
import functools
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
from eenet_jax.costs.profile import Profile, measure_profile
from eenet_jax.data import inputs
from eenet_jax.predictions import Split
from eenet_jax.runtime.plan import Plan, ideal_ms, plan_ladders
from eenet_jax.runtime.queues import Queues
from eenet_jax.runtime.staged import exit_alone, program
from eenet_jax.schedulers.evidence import max_prob
from eenet_jax.schedulers.policy import Policy

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
    parser.add_argument("--repeats", type=int, default=20, help="batches in a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=0, help="0: the network's")
    parser.add_argument("--tokens", type=int, default=32, help="of texts")
    parser.add_argument("--dtype", default="float32", help="or bfloat16")
    args = parser.parse_args()
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

    everyone = np.arange(batch_size), np.ones(batch_size, bool)
    calls = {"full": lambda: full(variables, x), "first": lambda: first(variables, x)}
    for i, (policy, queue) in enumerate(zip(policies, queues, strict=True)):
        calls["batch by batch", i] = functools.partial(
            run, variables, policy, x, latest
        )
        calls["with queues", i] = functools.partial(queue.add, *everyone, x)
    ends = {("with queues", i): queue.flush for i, queue in enumerate(queues)}
    taken, profiles = {name: [] for name in calls}, []
    for _ in range(args.rounds):
        profiles.append(measure_profile(backbone, variables, x, sizes=[batch_size]))
        for name, call in calls.items():
            taken[name].append(in_a_row(call, args.repeats, ends.get(name)))
    ms = {name: float(np.median(each)) for name, each in taken.items()}
    for i, policy in enumerate(policies):
        found = np.asarray(run(variables, policy, x, latest).exit_index)
        shares = np.bincount(found, minlength=last + 1) / batch_size
        ideals = np.array(
            [ideal(each, plan, policy, shares, split) for each in profiles]
        )
        print(
            f"  shares {' '.join(f'{share:.2f}' for share in shares)}: ideal "
            f"{np.median(ideals):.2f} ms, full {ms['full']:.2f}"
        )
        for way in ("batch by batch", "with queues"):
            ratios = np.array(taken[way, i]) / ideals
            print(
                f"    {way}: {ms[way, i]:.2f} ms; ratio wall / ideal: "
                f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}), "
                f"full / wall: {ms['full'] / ms[way, i]:.2f}"
            )
    ratio = ms["batch by batch", len(policies) - 1] / ms["first"]
    print(f"  ratio exit 0 for all / its own prefix: {ratio:.2f}")


def in_a_row(
    call: Callable[[], Any], repeats: int, end: Callable[[], Any] | None
) -> float:
    """Returns the mean milliseconds of calls in a row, after one that is not timed."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    if end is not None:
        end()
    return 1e3 * (time.perf_counter() - start) / repeats


def ideal(
    profile: Profile, plan: Plan, policy: Policy, shares: np.ndarray, split: Split
) -> float:
    """Returns the milliseconds of a batch that the plan cannot beat."""
    unasked = unasked_ms(profile, policy, split)
    return ideal_ms(profile, plan.ladders, shares, unasked) * profile.batch_size


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
