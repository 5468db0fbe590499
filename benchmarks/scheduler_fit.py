"""How long does a scheduler's fit take, and what does fitting all budgets at once save?

    python -m benchmarks.scheduler_fit FILE.npz [--repeats=5]

For ``eenet`` (20 budgets, 10 restarts each) and ``lagrangian`` (40 prices): seconds of
the first fit, compilation included; median seconds of further fits; of the same budgets
fitted one after another; and milliseconds of ``for_budget``.
"""

import argparse
import pathlib
import statistics
import time

import jax
import numpy as np

from eenet_jax import schedulers
from eenet_jax.predictions import load_predictions

NUM_BUDGETS = 20


def seconds(run, repeats: int) -> float:
    """Median seconds of calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = jax.devices()[0].device_kind
    print(f"jax {jax.__version__} on {device}, medians of {args.repeats}")
    for path in args.files:
        given = load_predictions(path)
        budgets = np.linspace(given.costs[0], given.costs[-1], NUM_BUDGETS)
        num_exits, num_samples, num_classes = given.val.logits.shape
        print(f"{path.stem}: K={num_exits}, N={num_samples}, C={num_classes}")
        for name in ("eenet", "lagrangian"):

            def fit(budgets=budgets, name=name, given=given):
                key = jax.random.key(0)
                return schedulers.fit(name, given, budgets=budgets, key=key)

            first = seconds(fit, 1)
            again = seconds(fit, args.repeats)
            frontier = fit()
            picked = seconds(lambda f=frontier, b=budgets: f.for_budget(b[7]), 100)
            print(
                f"  {name}: first fit {first:.1f} s, again {again:.1f} s, "
                f"for_budget {1e3 * picked:.3f} ms"
            )
            if name == "eenet":
                fit(budgets[:1])  # compiles
                alone = seconds(lambda f=fit, b=budgets: [f(x) for x in b[:, None]], 1)
                print(
                    f"  {name}, budget by budget: {alone:.1f} s; ratio to all at once: "
                    f"{alone / again:.1f}"
                )


if __name__ == "__main__":
    main()
