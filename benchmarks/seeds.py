"""Do seeds trained together take less than runs of their own?

    python -m benchmarks.seeds [--seeds=8] [--epochs=5]

The digits model: seconds for all seeds by ``vmap_seeds`` and one after the other, each
from nothing, compilation counted, and their ratio; then the validation accuracy of the
last exit, mean over the seeds.
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import numpy as np

from configs import digits
from eenet_jax import memory
from eenet_jax.training import loop, seeds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    memory.keep_freed()
    configs = []
    for seed in range(args.seeds):
        config = digits.get_config()
        config.seed, config.train.epochs = seed, args.epochs
        configs.append(config)
    with tempfile.TemporaryDirectory() as folder:
        ways = {}
        for name in ("together", "in turn"):
            folders = [pathlib.Path(folder, name, str(c.seed)) for c in configs]
            start = time.perf_counter()
            if name == "together":
                seeds.train_seeds(configs, folders)
            else:
                for config, workdir in zip(configs, folders, strict=True):
                    loop.train(config, workdir)
            ways[name] = (
                time.perf_counter() - start,
                np.mean([last_accuracy(workdir) for workdir in folders]),
            )
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for name, (seconds, accuracy) in ways.items():
        print(f"{name}: {args.seeds} seeds in {seconds:.1f} s, {100 * accuracy:.2f} %")
    ratio = ways["together"][0] / ways["in turn"][0]
    print(f"ratio together / in turn: {ratio:.2f}")


def last_accuracy(workdir: pathlib.Path) -> float:
    """Returns a run's last validation accuracy of its last exit."""
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    exits = [name for name in line if name.startswith("val/accuracy/exit_")]
    return line[max(exits)]


if __name__ == "__main__":
    main()
