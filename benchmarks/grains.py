"""What do policies for images, and for blocks of them, save at equal mean IoU?

    python -m benchmarks.grains DIR/predictions.npz DIR/blocks_2x2+2/predictions.npz

On predictions of a network of maps, the first file's being of whole images: for each
scheduler the cheapest policy whose validation mean IoU is at most 0.3 points below that
of the last exit on whole images, what it saves of that exit's cost on the test part,
and how its mean IoU differs, with 95 % intervals of a bootstrap over images. Then each
scheduler against thresholds on the largest probability at equal cost.
"""

import argparse
import pathlib

import jax
import numpy as np

from eenet_jax import schedulers
from eenet_jax.comparison import compare
from eenet_jax.errors import UserError
from eenet_jax.iou import mean_iou
from eenet_jax.predictions import Predictions, load_predictions
from eenet_jax.runtime import simulate
from eenet_jax.schedulers import FOR_MAPS

DROPS = (0.0, 0.003, 0.01)
DRAWS = 1000
NUM_BUDGETS = 40


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    whole = load_predictions(args.files[0])
    last = whole.test.confusion[-1]
    floor = whole.val.exit_accuracy[-1]
    full = whole.single_exit_costs[-1]
    shown = " / ".join(f"{100 * iou:.2f}" for iou in whole.test.exit_accuracy)
    print(
        f"jax {jax.__version__}; whole images: test mIoU by exit {shown} %, the last "
        f"at {full:.4g} {whole.cost_unit} (validation {100 * floor:.2f} %)"
    )
    for path in args.files:
        given = load_predictions(path)
        print(f"\n{path.parent.name}, {given.samples_per_image} samples an image:")
        fitted = {
            name: schedulers.fit(name, given, key=jax.random.key(0))
            for name in FOR_MAPS
        }
        for drop in DROPS:
            print(f"  at most {100 * drop:g} points of validation mIoU below it:")
            for name, frontier in fitted.items():
                try:
                    policy = frontier.for_accuracy(floor - drop - 1e-9, given.val)
                except UserError:
                    print(f"    {name}: none is")
                    continue
                found = simulate(policy, given.test, *given.prices)
                cells = against(last, full, found.exit_index, found.cost, given)
                print(f"    {name}: {cells}")
        print("  mean IoU less maxprob_opt's at 25, 50, 75 % of the cost range, mean:")
        for name, line in at_equal_cost(fitted, given).items():
            print(f"    {name}: {line}")


def against(
    last: np.ndarray,
    full: float,
    exits: np.ndarray,
    cost: np.ndarray,
    given: Predictions,
) -> str:
    """Compares a policy with the last exit on whole images.

    Args:
      last: That exit's confusion matrices, ``[N, C, C]``.
      full: What it costs.
      exits: Exits taken by the policy's samples.
      cost: Of each of them.
      given: Their predictions.
    """
    counts = given.test.confusion[exits, np.arange(len(exits))]
    counts = counts.reshape(len(last), -1, *counts.shape[1:]).sum(axis=1)
    spent = cost.reshape(len(last), -1).mean(axis=1)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(last), (DRAWS, len(last)))
    every = np.arange(len(last))[None]
    gain, saved = (
        np.concatenate([of(every), of(rows)])
        for of in (
            lambda r: 100 * (mean_iou(counts[r].sum(1)) - mean_iou(last[r].sum(1))),
            lambda r: 100 * (1 - spent[r].mean(1) / full),
        )
    )
    cells = []
    for name, values in (("mIoU", gain), ("% saved", saved)):
        low, high = np.quantile(values[1:], [0.025, 0.975])
        cells.append(f"{values[0]:+.2f} [{low:+.2f}, {high:+.2f}] {name}")
    return ", ".join(cells)


def at_equal_cost(fitted: dict, given: Predictions) -> dict[str, str]:
    """Compares schedulers at equal test cost, in points."""
    exits, spent = {}, {}
    budgets = np.linspace(given.costs[0], given.costs[-1], NUM_BUDGETS)
    for name, frontier in fitted.items():
        policies = [frontier.for_budget(budget) for budget in budgets]
        found = [simulate(policy, given.test, *given.prices) for policy in policies]
        exits[name] = np.stack([f.exit_index for f in found])[None]
        spent[name] = np.stack([f.cost for f in found])[None]
    compared = compare(
        exits,
        given.test.confusion,
        given.costs,
        spent=spent,
        group_size=given.samples_per_image,
    )
    lines = {}
    for name, found in compared["schedulers"].items():
        mean = found["points_mean"]
        points = [*found["points"]["difference"], mean["difference"]]
        low, high = (100 * end for end in mean["interval"])
        cells = ", ".join(f"{100 * d:+.2f}" for d in points)
        lines[name] = f"{cells} [{low:+.2f}, {high:+.2f}]"
    return lines


if __name__ == "__main__":
    main()
