"""Does cost fall as alpha rises, and how long do gates for 21 alphas take?

    python -m benchmarks.alphas FILE.npz [FILE.npz ...] [--alphas=21]

For each predictions file with features: seconds of the one program that trains LEENet's
gates for all alphas (with its compilation, and without), and for each alpha mean cost
and accuracy, on validation samples that the gates were not trained on and on the test
part. Then the largest rise of the cost from one alpha to the next, in % of the range.
"""

import argparse
import pathlib
import time

import jax
import numpy as np

from eenet_jax.predictions import Predictions, load_predictions
from eenet_jax.runtime import simulate
from eenet_jax.schedulers import gate_policy, leenet
from eenet_jax.schedulers.gate_training import DEFAULT_RECIPE


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--alphas", type=int, default=21)
    args = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    for path in args.files:
        show(path, load_predictions(path), np.linspace(0, 1, args.alphas))


def show(path: pathlib.Path, given: Predictions, alphas: np.ndarray) -> None:
    """Prints a file's lines."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        params, outcomes = leenet.solve_alphas(
            given, alphas, key=jax.random.key(0), recipe=DEFAULT_RECIPE
        )
        seconds.append(time.perf_counter() - start)
    sizes = [f.shape[1] for f in given.val.features[: len(given.costs) - 1]]
    print(
        f"\n{path}: {given.gate_inputs} inputs {sizes}, {given.val.num_samples} samples"
        f"; {len(alphas)} alphas in {seconds[0]:.1f} s, {seconds[1]:.1f} s again\n"
    )
    print("| alpha | val: cost | accuracy, % | test: cost | accuracy, % |")
    print("| --- | --- | --- | --- | --- |")
    spent = []
    for a, alpha in enumerate(alphas):
        weights = [params[f"weight_{k}"][a] for k in range(len(sizes))]
        policy = gate_policy(given.gate_inputs, weights, params["bias"][a])
        run = simulate(policy, given.test, *given.prices)
        right = 100 * run.accuracy(given.test.labels)
        spent.append((outcomes[a, 1], run.mean_cost))
        print(
            f"| {alpha:.2f} | {outcomes[a, 1]:.4g} | {100 * outcomes[a, 0]:.2f} "
            f"| {run.mean_cost:.4g} | {right:.2f} |"
        )
    rises = np.diff(spent, axis=0).max(axis=0).clip(0) / np.ptp(given.costs)
    on_val, on_test = 100 * rises
    print(
        "\nlargest rise of the cost with alpha, in % of its range: "
        f"{on_val:.2f} on the validation part, {on_test:.2f} on the test part"
    )


if __name__ == "__main__":
    main()
