"""Which scheduler is most accurate at equal realised test cost?

    python -m benchmarks.equal_cost FILE.npz [FILE.npz ...] [--seeds=3]

For each predictions file and scheduler prints test accuracy in %, interpolated at a
quarter, half and three quarters of the cost range, its mean over seeds, the ratio of
errors to maxprob_opt's, and the seconds of a fit.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, load_predictions
from eenet_jax.runtime import simulate

SHARES = (0.25, 0.5, 0.75)


def curve(name: str, given: Predictions, seed: int) -> tuple[np.ndarray, float]:
    """Test accuracies at equal cost, ``[3]``, and the seconds of the fit."""
    start = time.perf_counter()
    fitted = schedulers.fit(name, given, key=jax.random.key(seed))
    seconds = time.perf_counter() - start
    low, high = given.costs[0], given.costs[-1]
    runs = [
        simulate(fitted.for_budget(budget), given.test, given.costs)
        for budget in np.linspace(low, high, 60)
    ]
    points = sorted((r.mean_cost, r.accuracy(given.test.labels)) for r in runs)
    cost, accuracy = np.array(points).T
    wanted = low + np.array(SHARES) * (high - low)
    return np.interp(wanted, cost, accuracy), seconds


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {args.seeds} seeds"
    )
    heads = ["file", "scheduler", *(f"{share:.0%}" for share in SHARES), "mean"]
    heads += ["errors / maxprob_opt", "fit, s"]
    print("| " + " | ".join(heads) + " |")
    print("|" + " --- |" * len(heads))
    for path in args.files:
        given = load_predictions(path)
        results = {}
        for name in schedulers.SCHEDULERS:
            runs = [curve(name, given, seed) for seed in range(args.seeds)]
            accuracy = np.mean([a for a, _ in runs], axis=0)
            results[name] = accuracy, np.median([s for _, s in runs])
        base = 1 - results["maxprob_opt"][0].mean()
        for name, (accuracy, seconds) in results.items():
            cells = [f"{100 * a:.2f}" for a in (*accuracy, accuracy.mean())]
            ratio = (1 - accuracy.mean()) / base
            cells += [f"{ratio:.3f}", f"{seconds:.1f}"]
            print(f"| {path.stem} | `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
