"""What do bfloat16 and int8 cost in accuracy, and what do they save?

    python -m benchmarks.quantization --workdir=DIR

For a trained (or imported) network in float32, bfloat16 (parameters too) and int8: the
test accuracy of each exit, the size of its variables, multiply-adds, of which those in
int8, and the time of a batch, all taking turns.
"""

import argparse
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import backbones, distributed, memory, quantised, trained
from eenet_jax.costs.flops import count_macs
from eenet_jax.data import inputs
from eenet_jax.inference import Predictor
from eenet_jax.runtime.staged import exit_alone
from eenet_jax.stopwatch import take_turns


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    memory.keep_freed()
    run = trained.load_trained(args.workdir)
    networks = {"float32": (run.backbone, run.variables), "bfloat16": halved(run)}
    networks["int8"] = quantised.in_int8(
        run.backbone, run.variables, run.dataset, run.config.data.num_workers
    )
    batch = next(
        iter(inputs.eval_batches(run.dataset, run.dataset.test, args.batch_size, 0))
    )
    x = jax.jit(inputs.prepare_eval(run.dataset))(batch.inputs)
    last = run.backbone.num_exits - 1
    timed = {
        name: functools.partial(exit_alone(backbone, last), variables, x)
        for name, (backbone, variables) in networks.items()
    }
    times = take_turns(timed, args.repeats)
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, "
        f"{len(os.sched_getaffinity(0))} cores; {run.backbone.name}, "
        f"{len(run.dataset.test.labels)} test samples, batch {args.batch_size}"
    )
    print(f"int8: {quantised.describe()}")
    first = np.median(times["float32"])
    for name, (backbone, variables) in networks.items():
        predictor = Predictor(
            backbone,
            run.dataset,
            batch_size=run.config.eval.batch_size,
            mesh=distributed.data_mesh(),
        )
        accuracy = predictor.accuracy(variables, run.dataset.test)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        macs = count_macs(lambda v, x, b=backbone: b.apply(v, x)[0], variables, x)
        ms = np.median(times[name])
        print(
            f"{name}: accuracy {' '.join(f'{100 * a:.2f}' for a in accuracy)} %, "
            f"{size / 1e6:.3f} MB, {macs / len(batch.mask) / 1e6:.2f} M multiply-adds, "
            f"{ms:.2f} ms a batch, ratio to float32: {ms / first:.2f}"
        )


def halved(run: trained.Trained) -> tuple[backbones.Backbone, dict]:
    """Returns the network in bfloat16, and its variables with such parameters."""
    config = run.config
    backbone = backbones.build(
        config.model.name,
        num_classes=run.dataset.num_classes,
        exits=config.model.exits,
        dtype="bfloat16",
        **config.model.options,
    )
    params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), run.variables["params"]
    )
    return backbone, {**run.variables, "params": params}


if __name__ == "__main__":
    main()
