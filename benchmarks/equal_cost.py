"""Which scheduler is most accurate at equal realised test cost?

    python -m benchmarks.equal_cost FILE.npz [FILE.npz ...] [--seeds=3]
        [--schedulers=maxprob_opt,lagrangian,...] [--group_size=1] [--temperature]

For each predictions file and scheduler prints test accuracy in % at a quarter, half and
three quarters of the cost range, mean over seeds; its mean difference to maxprob_opt at
these points, with the paired bootstrap's 95 % interval, and the ratio of errors; and
the seconds of a fit. At the end, the differences' mean over the files.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from eenet_jax import schedulers
from eenet_jax.comparison import compare
from eenet_jax.predictions import Predictions, load_predictions
from eenet_jax.runtime import simulate

NUM_BUDGETS = 60


def replay(
    fitted: schedulers.Frontier, given: Predictions
) -> tuple[np.ndarray, np.ndarray]:
    """Replays policies for budgets all over the range on the test part.

    Returns:
      Exits taken, and what the samples cost, ``[Q, N]``.
    """
    budgets = np.linspace(given.costs[0], given.costs[-1], NUM_BUDGETS)
    policies = [fitted.for_budget(budget) for budget in budgets]
    found = [simulate(policy, given.test, *given.prices) for policy in policies]
    return np.stack([f.exit_index for f in found]), np.stack([f.cost for f in found])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schedulers", default=",".join(schedulers.SCHEDULERS))
    parser.add_argument("--group_size", type=int, default=1)
    parser.add_argument("--temperature", action="store_true")
    args = parser.parse_args()
    options = {"temperature": True} if args.temperature else {}
    names = args.schedulers.split(",")
    if "maxprob_opt" not in names:
        names = ["maxprob_opt", *names]
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {args.seeds} seeds"
    )
    heads = ["file", "scheduler", "25 %", "50 %", "75 %", "mean - maxprob_opt's"]
    heads += ["errors / maxprob_opt's", "fit, s"]
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    differences: dict[str, list[float]] = {}
    for path in args.files:
        given = load_predictions(path)
        exits, spent, seconds = {}, {}, {}
        for name in names:
            if schedulers.missing_evidence(name, given):
                continue
            taken, times = [], []
            for seed in range(args.seeds):
                start = time.perf_counter()
                key = jax.random.key(seed)
                fitted = schedulers.fit(name, given, key=key, **options)
                times.append(time.perf_counter() - start)
                taken.append(replay(fitted, given))
            exits[name], spent[name] = map(np.stack, zip(*taken, strict=True))
            seconds[name] = np.median(times)
        compared = compare(
            exits,
            given.test.correct,
            given.costs,
            spent=spent,
            group_size=args.group_size,
        )["schedulers"]
        base = compared["maxprob_opt"]["points_mean"]["accuracy"]
        for name, found in compared.items():
            cells = [f"{100 * a:.2f}" for a in found["points"]["accuracy"]]
            mean = found["points_mean"]
            low, high = (100 * end for end in mean["interval"])
            difference = 100 * mean["difference"]
            differences.setdefault(name, []).append(difference)
            cells.append(f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]")
            cells.append(f"{(1 - mean['accuracy']) / (1 - base):.3f}")
            cells.append(f"{seconds[name]:.1f}")
            row = [path.stem, f"`{name}`", *cells]
            print("| " + " | ".join(row) + " |", flush=True)
    for name, values in differences.items():
        print(
            f"{name}: mean over files {np.mean(values):+.3f}, least {min(values):+.2f}"
        )


if __name__ == "__main__":
    main()
