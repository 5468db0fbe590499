"""Is a scanned chunk of training steps faster than the same steps one by one?

    python -m benchmarks.train_chunk [--depth=20] [--size=8] [--batch_size=96]

Prints the medians and the ratio, scanned / one by one, both after compilation.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax import backbones
from eenet_jax.training import losses, step


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--size", type=int, default=8, help="image side in pixels")
    parser.add_argument("--batch_size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=10, help="steps a chunk")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    backbone = backbones.build("cifar_resnet", num_classes=10, depth=args.depth)
    tx = optax.sgd(0.1, 0.9)
    x = jnp.zeros((1, args.size, args.size, 3))
    key = jax.random.key(0)
    state = step.init_state(backbone, tx, x, key=key, with_average=False)
    rng = np.random.default_rng(0)
    shape = (1024, args.size, args.size, 3)
    images = jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))
    labels = jnp.asarray(rng.integers(0, 10, 1024), jnp.int32)
    rows = rng.integers(0, 1024, (args.steps, args.batch_size), dtype=np.int32)
    run = jax.jit(
        functools.partial(
            step.run_chunk,
            prepare=lambda batch, labels, key: (batch / jnp.float32(255) - 0.5, labels),
            step_fn=functools.partial(
                step.train_step,
                forward=step.whole_network(backbone),
                tx=tx,
                loss_fn=lambda z, y, _: losses.joint_loss(z, y),
            ),
        )
    )

    def scanned():
        return run(state, images, labels, rows, key=key)[0]

    def one_by_one():
        current = state
        for i in range(args.steps):
            current = run(current, images, labels, rows[i : i + 1], key=key)[0]
        return current

    seconds = {f: [] for f in (scanned, one_by_one)}
    for function in seconds:
        jax.block_until_ready(function())
    for _ in range(args.repeats):
        for function, times in seconds.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times.append((time.perf_counter() - start) / args.steps)
    chunk, single = (1e3 * np.median(times) for times in seconds.values())
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    print(f"scanned {chunk:.1f} ms a step, one by one {single:.1f} ms a step")
    print(f"ratio scanned / one by one: {chunk / single:.2f}")


if __name__ == "__main__":
    main()
