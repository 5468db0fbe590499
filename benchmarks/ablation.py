"""What is each ingredient of the lagrangian scheduler worth?

    python -m benchmarks.ablation FILE.npz [FILE.npz ...] [--seeds=3]

For each predictions file and variant prints the difference in test accuracy to
maxprob_opt, in points, at equal realised test cost: mean of a quarter, half and three
quarters of the cost range, mean over seeds of the fit (standard deviation over seeds).
At the end means over the files.
"""

import argparse
import functools
import pathlib

import jax
import numpy as np

from benchmarks.equal_cost import exits_taken
from eenet_jax import schedulers
from eenet_jax.comparison import compare
from eenet_jax.predictions import load_predictions
from eenet_jax.schedulers import lagrangian
from eenet_jax.schedulers.lagrangian import DEFAULT_RECIPE

NONE = 1e9  # a ridge that leaves nothing


def fit(variant, recipe, temperature, given, key):
    """Fits a variant of the lagrangian scheduler."""
    if temperature:
        return schedulers.fit("lagrangian", given, key=key, temperature=True)
    return lagrangian.fit(given, budgets=None, key=key, variant=variant, recipe=recipe)


def variants():
    """Returns the variants' fits by name."""
    no_classes = DEFAULT_RECIPE._replace(class_ridges=(NONE,))
    linear = DEFAULT_RECIPE._replace(units=1)
    settings = {
        "chosen (the default)": (None, DEFAULT_RECIPE, False),
        "combined": ("combined", DEFAULT_RECIPE, False),
        "stopping alone": ("stopping", DEFAULT_RECIPE, False),
        "gates alone": ("gates", DEFAULT_RECIPE, False),
        "without class features": (None, no_classes, False),
        "one random unit": (None, linear, False),
        "with temperatures": (None, DEFAULT_RECIPE, True),
    }
    return {
        name: functools.partial(fit, *setting) for name, setting in settings.items()
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    fits = variants()
    print("| file | " + " | ".join(fits) + " |")
    print("|" + " --- |" * (len(fits) + 1))
    rows = []
    for path in args.files:
        given = load_predictions(path)
        base = schedulers.fit("maxprob_opt", given, key=jax.random.key(0))
        base = exits_taken(base, given)[None]
        exits = {}
        for seed in range(args.seeds):
            for name, of_variant in fits.items():
                fitted = of_variant(given, jax.random.key(seed))
                exits[name, seed] = exits_taken(fitted, given)[None]
        found = compare(
            {"maxprob_opt": base, **exits}, given.test.correct, given.costs
        )["schedulers"]
        points = np.array(
            [
                [100 * found[n, s]["points_mean"]["difference"] for n in fits]
                for s in range(args.seeds)
            ]
        )
        rows.append(points.mean(axis=0))
        cells = zip(points.mean(axis=0), points.std(axis=0), strict=True)
        cells = [f"{mean:+.2f} ({std:.2f})" for mean, std in cells]
        print(f"| {path.stem} | " + " | ".join(cells) + " |", flush=True)
    for name, of_files in (("mean", np.mean), ("least", np.min)):
        cells = [f"{value:+.2f}" for value in of_files(rows, axis=0)]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
