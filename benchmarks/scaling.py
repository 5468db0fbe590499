"""How does the training step scale over devices, and how near is it to their best?

    python -m benchmarks.scaling [--devices=1,2,4,8] [--models=resnet56_3,bert_4]

First the digits model: samples a second on 1, 2, 4 and 8 devices that share every batch
(emulated ones on a CPU, which share its cores: there it is the parameters that count),
and the greatest difference of its parameters from those on 1 device, which fails above
``--tolerance``.

Then, by default where there is an accelerator, EENet's networks on one device, at the
batch that doubling finds best: samples a second; the share of the device's arithmetic
that the model puts to use (3 x the forward pass's FLOPs, over time and peak); the share
of time the device is busy, from a profiler's trace; and what memory alone would allow.
``--peak_tflops`` and ``--bandwidth_gbs`` are for devices that are not known here.
"""

import argparse
import functools
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import device_trace, roofline
from configs import digits
from eenet_jax import backbones, distributed, memory
from eenet_jax import config as config_lib
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.training import losses, plan, step

MODELS = "resnet56_3,densenet121_4,bert_4"
TOKENS = 128  # of a text
NO_MEMORY = "RESOURCE_EXHAUSTED"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="1,2,4,8", help="counts, 1 the first")
    parser.add_argument("--steps", type=int, default=3, help="before the comparison")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--models", help=f"accelerators: {MODELS}; CPUs: none")
    parser.add_argument("--first", type=int, default=32, help="smallest batch tried")
    parser.add_argument("--most", type=int, default=65536, help="largest batch tried")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak_tflops", type=float, help="of the type computed in")
    parser.add_argument("--bandwidth_gbs", type=float, help="of the main memory")
    args = parser.parse_args()
    if (args.peak_tflops is None) != (args.bandwidth_gbs is None):
        parser.error("--peak_tflops and --bandwidth_gbs go together; give both")
    counts = [int(count) for count in args.devices.split(",")]
    if counts[0] != 1:
        parser.error(f"--devices={args.devices} has to begin with 1")
    jax.config.update("jax_num_cpu_devices", max(counts))
    memory.keep_freed()
    kind = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {kind}, {jax.device_count()} devices")
    failed = compare_devices(counts, args)
    on_cpu = jax.default_backend() == "cpu"
    models = args.models if args.models is not None else "" if on_cpu else MODELS
    device = roofline.find_device(kind)
    if args.peak_tflops is not None:
        device = roofline.Device(1e12 * args.peak_tflops, 1e9 * args.bandwidth_gbs)
    for name in filter(None, models.split(",")):
        measure(name, device, args)
    if not models:
        print("\nutilisation and busy share: not measured, there is no accelerator")
    if failed:
        sys.exit(failed)


def compare_devices(counts: list[int], args: argparse.Namespace) -> str:
    """Trains the digits model on so many devices each; returns what is wrong, if any.

    Args:
      counts: Of devices, 1 the first.
      args: The flags.
    """
    config = digits.get_config()
    # Few plain steps: Adam takes as long a step where the gradient is 0 but for
    # rounding, and a ReLU that rounding turns over grows tenfold with every step.
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.01
    config.schedule.warmup_epochs = 0.0
    dataset = config_lib.load_data(config)
    batch = config.train.batch_size
    print(f"\ndigits model, batch {batch}; parameters after {args.steps} steps of SGD")
    first, wrong = None, []
    for count in counts:
        if count > jax.device_count() or batch % count:
            print(f"  devices {count}: not run ({jax.device_count()} are here)")
            continue
        mesh = distributed.data_mesh(jax.devices()[:count])
        run = plan.build_plan(config, dataset, mesh)
        key = distributed.replicate(jax.random.key(0), mesh)
        state = run.init(key)
        start = jax.device_get(state.variables["params"])
        calls = list(run.feed.calls(0, 0, run.steps_per_epoch, 1))
        for i in range(args.steps):
            state, _ = run.run_chunk(state, *calls[i % len(calls)], key=key)
        reached = jax.device_get(state.variables["params"])
        first = reached if first is None else first
        found, moved = difference(first, reached), difference(start, reached)
        rates = []
        for _ in range(args.repeats):
            began = time.perf_counter()
            for call in calls:
                state, _ = run.run_chunk(state, *call, key=key)
            jax.block_until_ready(state)
            rates.append(batch * len(calls) / (time.perf_counter() - began))
        print(
            f"  devices {count}: {statistics.median(rates):.0f} samples/s, greatest "
            f"difference from 1 device {found:.1e} (moved {moved:.1e})",
            flush=True,
        )
        if not found <= args.tolerance:
            wrong.append(f"{found:.1e} on {count} devices")
    if not wrong:
        return ""
    return f"parameters differ by more than {args.tolerance:g}: {', '.join(wrong)}"


def difference(one: Any, other: Any) -> float:
    """Returns the greatest difference of two trees' numbers; NaN if either has one."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return float(np.max([np.abs(np.subtract(*pair)).max() for pair in pairs]))


def measure(
    name: str, device: roofline.Device | None, args: argparse.Namespace
) -> None:
    """Finds a network's best batch and prints a block about it."""
    dtype = distributed.compute_dtype("auto")
    print(f"\n{name}, {dtype}")

    def samples_per_s(batch: int) -> float | None:
        try:
            run = Step(name, batch, dtype)
            seconds = run.seconds(args.repeats)
        except jax.errors.JaxRuntimeError as error:
            if NO_MEMORY not in str(error):
                raise
            print(f"  batch {batch}: out of memory")
            return None
        print(f"  batch {batch}: {batch / seconds:.0f} samples/s", flush=True)
        return batch / seconds

    found = roofline.best_batch(samples_per_s, args.first, args.most)
    if not found:
        print(f"  not measured: batch {args.first} does not fit; lower --first")
        return
    best = max(found, key=found.get)
    run = Step(name, best, dtype)
    seconds = run.seconds(args.repeats)
    print(
        f"  best batch {best}: {best / seconds:.0f} samples/s, "
        f"{1e-12 * run.flops / seconds:.3g} TFLOP/s of the model"
    )
    if device is None:
        print("  utilisation: not measured, this device's peak is not known; give "
              "--peak_tflops and --bandwidth_gbs")  # fmt: skip
    else:
        used = roofline.utilisation(run.flops, seconds, device)
        print(f"  utilisation of the peak: {100 * used:.1f} %")
        print(f"  {roofline.reason(run.flops, run.moved, device)}")
    busy = device_trace.busy_share(device_trace.record(lambda: run.take(args.repeats)))
    if busy is None:
        print("  busy share: not measured, the trace has no accelerator")
    else:
        print(f"  busy share: {100 * busy:.1f} %")


class Step:
    """The training step of a network on inputs that lie on the device.

    Attributes:
      flops: Of the model in a step.
      moved: Bytes that the compiled step's kernels read and write, by XLA's count.
    """

    def __init__(self, name: str, batch: int, dtype: str):
        backbone = backbones.build(name, num_classes=10, dtype=dtype)
        rng = np.random.default_rng(0)
        if backbone.input_kind == "text":
            ids = rng.integers(1, backbone.module.vocab_size, (batch, TOKENS))
            x = {"ids": jnp.asarray(ids, jnp.int32), "mask": jnp.ones(ids.shape, bool)}
        else:
            size = backbone.module.image_size
            x = rng.standard_normal((batch, size, size, 3))
            x = jnp.asarray(x, jnp.float32)
        one = jax.tree.map(lambda leaf: leaf[:1], x)
        tx = optax.sgd(1e-3, 0.9)
        init = functools.partial(step.init_state, backbone, tx, with_average=False)
        self._key = jax.random.key(0)
        self._state = jax.jit(init)(one, key=self._key)
        costs = exit_mflops(backbone, self._state.variables, one).costs
        self.flops = 3e6 * costs[-1] * batch
        self._given = x, jnp.asarray(rng.integers(0, 10, batch), jnp.int32)
        take = functools.partial(
            step.train_step,
            forward=step.whole_network(backbone),
            tx=tx,
            loss_fn=lambda z, y, _: losses.joint_loss(z, y),
        )
        lowered = jax.jit(take, donate_argnums=0).lower(
            self._state, *self._given, key=self._key
        )
        self._take = lowered.compile()
        self.moved = float(self._take.cost_analysis()["bytes accessed"])

    def take(self, count: int) -> Any:
        """Starts steps; returns the state they lead to."""
        for _ in range(count):
            self._state, _ = self._take(self._state, *self._given, key=self._key)
        return self._state

    def seconds(self, repeats: int) -> float:
        """Returns what a step takes, the median of ``repeats`` turns of a few."""
        jax.block_until_ready(self.take(2))
        turns = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(self.take(5))
            turns.append((time.perf_counter() - start) / 5)
        return statistics.median(turns)


if __name__ == "__main__":
    main()
