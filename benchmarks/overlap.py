"""Does XLA run the head of an exit beside the next stage, where nothing orders them?

    python -m benchmarks.overlap [--models=resnet20,leenet_vgg11_bn]
        [--batch_sizes=1,64]

The head of exit k and stage k + 1 read the same carry, and neither needs the other. If
one program ran them at the same time, asking an exit would cost less than its head
does alone, and it might pay to begin the next stage before the exit has answered. For
each early exit four compiled programs take turns: the head alone, the stage alone, both
from the same carry, and an empty one. Prints medians in milliseconds and the ratio
both / (head + stage): 1.0 is no overlap.

The sum has two calls in it and both are one, so where calls take long the ratio is
below 1 without any overlap; "without calls" has the empty program's time taken off all
three. "At best" is that ratio if the shorter of the two hid behind the longer. Weights
are fresh.
"""

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from eenet_jax import backbones, memory
from eenet_jax.backbones.staged import Backbone
from eenet_jax.stopwatch import take_turns


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet20,leenet_vgg11_bn")
    parser.add_argument("--batch_sizes", default="1,64")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--dtype", default="float32", help="or bfloat16")
    args = parser.parse_args()
    memory.keep_freed()
    cores = len(os.sched_getaffinity(0))
    print(
        f"jax {jax.__version__}, jaxlib {jaxlib.__version__} on "
        f"{jax.devices()[0].device_kind}, {cores} cores, {args.dtype}"
    )
    for name in args.models.split(","):
        backbone = backbones.build(name, num_classes=args.num_classes, dtype=args.dtype)
        variables = jax.jit(backbone.init)(jax.random.key(0), backbone.example())
        for batch_size in map(int, args.batch_sizes.split(",")):
            print(f"\n{name}, batch {batch_size}")
            x = inputs(backbone, batch_size)
            for k, ms in enumerate(measure(backbone, variables, x, args.repeats)):
                print(f"  exit {k + 1}: {line(**ms)}", flush=True)


def inputs(backbone: Backbone, batch_size: int) -> Any:
    """Returns random inputs of the size that the network is meant for."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == jnp.int32:  # token ids, or a mask of ones
            return leaf
        return jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(draw, backbone.example(batch_size))


def programs(backbone: Backbone, k: int) -> dict[str, Callable[[Any, Any], Any]]:
    """Returns what is timed at early exit k, ``(variables, carry) -> arrays`` each."""

    def head(variables: Any, carry: Any) -> Any:
        return backbone.head(k, variables, carry)

    def stage(variables: Any, carry: Any) -> Any:
        return backbone.stage(k + 1, variables, carry)

    def both(variables: Any, carry: Any) -> Any:
        return head(variables, carry), stage(variables, carry)

    def empty(variables: Any, carry: Any) -> Any:
        return jax.tree.leaves(carry)[0].reshape(-1)[0]

    return {f.__name__: jax.jit(f) for f in (head, stage, both, empty)}


def measure(
    backbone: Backbone, variables: Any, x: Any, repeats: int
) -> list[dict[str, float]]:
    """Times the programs of all early exits, which take turns.

    Returns:
      For each early exit the medians in milliseconds, by program.
    """
    timed, carry = {}, jax.jit(backbone.stem)(variables, x)
    for k in range(backbone.num_exits - 1):
        carry = jax.jit(functools.partial(backbone.stage, k))(variables, carry)
        for what, program in programs(backbone, k).items():
            timed[k, what] = functools.partial(program, variables, carry)
    taken = take_turns(timed, repeats, backbone.name)
    medians: list[dict[str, float]] = [{} for _ in range(backbone.num_exits - 1)]
    for (k, what), ms in taken.items():
        medians[k][what] = float(np.median(ms))
    return medians


def line(head: float, stage: float, both: float, empty: float) -> str:
    """Returns the medians of one exit, and their ratios, as text."""
    one, other, together = (ms - empty for ms in (head, stage, both))
    shown = (
        f"head {head:.3f} ms, stage {stage:.3f}, both {both:.3f}, empty {empty:.3f}; "
        f"ratio both / (head + stage): {both / (head + stage):.2f}"
    )
    if min(one, other) <= 0:
        return f"{shown} (one of them is as short as a call)"
    return (
        f"{shown}, without calls {together / (one + other):.2f} "
        f"(at best {max(one, other) / (one + other):.2f})"
    )


if __name__ == "__main__":
    main()
