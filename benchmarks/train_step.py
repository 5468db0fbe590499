"""What does a training step take, beside its forward pass and beside PyTorch's step?

    python -m benchmarks.train_step --threads=1 --torch_python=/opt/torch/bin/python

Prints for each model the medians of our training step and evaluation (logits of all
exits), PyTorch's of the same architecture where there is a PyTorch, and the ratios. The
four take turns, so that other work on the machine slows them alike. ``--torch_python``
names an interpreter that has torch; without it, this one is tried.

Both sides keep the memory they free, as train.py does (``eenet_jax.memory``);
``--give_back`` leaves that out, for both.
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eenet_jax import backbones, memory
from eenet_jax.training import losses, step

TORCH = pathlib.Path(__file__).with_name("torch_models.py")
WHAT = ("step", "forward")
# What memory.keep_freed sets, for a process that does not call it.
KEEP_FREED = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet56_3,densenet121_4")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="CPU cores; 0: all")
    parser.add_argument("--num_classes", type=int, default=10)
    parser.add_argument("--dtype", default="float32", help="or bfloat16")
    parser.add_argument("--torch_python", default="", help="interpreter with torch")
    parser.add_argument("--device", default="cpu", help="PyTorch's: cpu or cuda")
    parser.add_argument("--channels_last", action="store_true", help="PyTorch's layout")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--give_back", action="store_true", help="of freed memory")
    args = parser.parse_args()
    if not args.give_back:
        memory.keep_freed()
    if args.threads:
        # Before the first computation: XLA takes a thread for each core it may use.
        cores = sorted(os.sched_getaffinity(0))[: args.threads]
        os.sched_setaffinity(0, cores)
    here = importlib.util.find_spec("torch") is not None
    interpreter = args.torch_python or (sys.executable if here else "")
    cores = len(os.sched_getaffinity(0))
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {cores} cores")
    if not interpreter:
        print("no PyTorch here; --torch_python=PATH names an interpreter that has it")
    for name in args.models.split(","):
        measure(name, args, interpreter)


def measure(name: str, args: argparse.Namespace, interpreter: str) -> None:
    """Times one model and prints a block."""
    seconds, parameters, size = build_ours(name, args)
    timed = {f"our {what}": functools.partial(seconds, what) for what in WHAT}
    torch = start_torch(name, args, interpreter, size) if interpreter else None
    if torch is not None:
        about = json.loads(torch.stdout.readline() or "{}")
        if about.get("parameters") != parameters:
            sys.exit(f"{name}: {about or 'PyTorch failed'}, but ours has {parameters}")
        ask = functools.partial(ask_torch, torch)
        timed |= {f"torch {what}": functools.partial(ask, what) for what in WHAT}
    for function in timed.values():
        function()
    times = {label: [] for label in timed}
    for _ in range(args.repeats):
        for label, function in timed.items():
            times[label].append(function())
    if torch is not None:
        torch.communicate()
    medians = {label: 1e3 * np.median(values) for label, values in times.items()}
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{name}: batch {args.batch_size}, {args.dtype}, load {load}")
    for label, values in times.items():
        print(f"  {label:13s} {medians[label]:8.0f} ms, least {1e3 * min(values):.0f}")
    sides = ["our"] if torch is None else ["our", "torch"]
    for side in sides:
        ratio = medians[f"{side} step"] / medians[f"{side} forward"]
        print(f"  ratio {side} step / {side} forward: {ratio:.2f}")
    for what in WHAT if torch is not None else ():
        ratio = medians[f"our {what}"] / medians[f"torch {what}"]
        print(f"  ratio our {what} / torch {what}: {ratio:.2f} (torch {about})")


def build_ours(name: str, args: argparse.Namespace):
    """Returns a function from "step" or "forward" to seconds, parameters and size."""
    backbone = backbones.build(name, num_classes=args.num_classes, dtype=args.dtype)
    size = backbone.module.image_size
    tx = optax.sgd(1e-3, 0.9)
    rng = np.random.default_rng(0)
    shape = (args.batch_size, size, size, 3)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    labels = jnp.asarray(rng.integers(0, args.num_classes, len(x)), jnp.int32)
    key = jax.random.key(0)
    init = functools.partial(step.init_state, backbone, tx, with_average=False)
    state = jax.jit(init)(x[:1], key=key)
    parameters = sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(state.variables["params"])
    )
    take_step = functools.partial(
        step.train_step,
        forward=step.whole_network(backbone),
        tx=tx,
        loss_fn=lambda z, y, _: losses.joint_loss(z, y),
    )
    take_step = jax.jit(take_step, donate_argnums=0)
    evaluate = jax.jit(lambda variables, x: backbone.apply(variables, x)[0])

    def seconds(what: str) -> float:
        nonlocal state
        start = time.perf_counter()
        if what == "step":
            state, metrics = take_step(state, x, labels, key=key)
            jax.block_until_ready((state, metrics))
        else:
            jax.block_until_ready(evaluate(state.variables, x))
        return time.perf_counter() - start

    return seconds, parameters, size


def start_torch(
    name: str, args: argparse.Namespace, interpreter: str, size: int
) -> subprocess.Popen:
    """Starts PyTorch with the same model, batch, cores and compute type."""
    command = [
        *(interpreter, str(TORCH), f"--model={name}", f"--size={size}"),
        *(f"--batch_size={args.batch_size}", f"--num_classes={args.num_classes}"),
        *(f"--threads={len(os.sched_getaffinity(0))}", f"--dtype={args.dtype}"),
        f"--device={args.device}",
        *(["--channels_last"] if args.channels_last else []),
        *(["--compile"] if args.compile else []),
    ]
    pipe = subprocess.PIPE
    env = os.environ | ({} if args.give_back else KEEP_FREED)
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)


def ask_torch(torch: subprocess.Popen, what: str) -> float:
    """Returns the seconds that PyTorch took for "step" or "forward"."""
    torch.stdin.write(f"{what}\n")
    torch.stdin.flush()
    return float(torch.stdout.readline())


if __name__ == "__main__":
    main()
