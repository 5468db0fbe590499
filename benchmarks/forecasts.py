"""Do learned forecasts save more than published ones, every test, or few exits?

    python -m benchmarks.forecasts WORKDIR/predictions.npz [--few=2,5,10,15]

On saved predictions of a network with many exits, for each way to leave: the cheapest
policy whose validation accuracy is at most some points below the full network's, its
test accuracy and cost, and the share of heads on the way that it does not run. Then the
learned forecast against each other way at the same test cost, and against 1/0.9 of its
own: differences of test accuracy with 95 % intervals of a paired bootstrap.
"""

import argparse
import dataclasses
import pathlib

import jax
import numpy as np

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split, load_predictions
from eenet_jax.runtime import simulate
from eenet_jax.runtime.replay import Decisions
from eenet_jax.schedulers import Frontier

LEARNED = "predictive_exit"
WAYS = (LEARNED, "predictive_exit:published", "predictive_exit:every", "lagrangian")
DROPS = (0.0, 0.005, 0.01, 0.02)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the full network's cost
DRAWS = 2000
NUM_BUDGETS = 50

Curve = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--few", default="2,5,10,15", help="early exits, from 0")
    args = parser.parse_args()
    given = load_predictions(args.file)
    fitted = {name: (fit(name, given), given) for name in WAYS}
    few = pick(given, [int(k) for k in args.few.split(",")])
    fitted["lagrangian, few exits"] = fit("lagrangian", few), few
    full = given.single_exit_costs[-1]
    accuracy = [split.correct[-1].mean() for split in (given.val, given.test)]
    print(
        f"jax {jax.__version__}; the full network: {100 * accuracy[1]:.2f} % at "
        f"{full:.4g} {given.cost_unit}"
    )
    for drop in DROPS:
        print(f"\nat most {100 * drop:g} points below it on the validation part:")
        for name, (frontier, seen) in fitted.items():
            policy = frontier.for_accuracy(accuracy[0] - drop - 1e-9, seen.val)
            found = simulate(policy, seen.test, *seen.prices)
            right, run, passed = outcome(found, seen)
            print(
                f"  {name}: {100 * right.mean():.2f} %, "
                f"{100 * (1 - found.mean_cost / full):.1f} % saved, {run:.2f} heads a "
                f"sample, {100 * (1 - run / passed):.1f} % of those on the way skipped"
            )
    curves = {name: curve(*of) for name, of in fitted.items()}
    for times in (1.0, 1 / 0.9):
        print(f"\n{LEARNED}, less another at {times:.3g} times its test cost:")
        for name in [*curves][1:]:
            cells = [
                versus(curves[LEARNED], curves[name], share * full, times)
                for share in SHARES
            ]
            print(f"  {name}: " + "; ".join(cells))


def fit(name: str, given: Predictions) -> Frontier:
    """Fits one way."""
    return schedulers.fit(name, given, key=jax.random.key(0))


def pick(given: Predictions, early: list[int]) -> Predictions:
    """Returns the predictions of a network with fewer early exits."""
    kept = [*early, given.num_exits - 1]
    backbone, heads = given.split_costs
    of_kept = heads[kept]

    def part(split: Split) -> Split:
        return Split(split.logits[kept], split.labels)

    return dataclasses.replace(
        given,
        val=part(given.val),
        test=part(given.test),
        costs=backbone[kept] + np.cumsum(of_kept),
        head_costs=of_kept,
        gate_costs=None,
        activation_mean=None,
    )


def outcome(found: Decisions, given: Predictions) -> tuple[np.ndarray, float, float]:
    """Returns who is right, and the mean number of heads run and passed."""
    asked = found.scores > -np.inf
    way = np.arange(given.num_exits)[:, None] <= found.exit_index
    right = found.labels == given.test.labels
    return right, (asked & way).sum(0).mean(), way.sum(0).mean()


def curve(frontier: Frontier, given: Predictions) -> Curve:
    """Returns test costs ``[Q]`` for budgets all over the range, and who is right."""
    budgets = np.linspace(given.costs[0], given.costs[-1], NUM_BUDGETS)
    policies = [frontier.for_budget(budget) for budget in budgets]
    found = [simulate(policy, given.test, *given.prices) for policy in policies]
    right = np.stack([f.labels == given.test.labels for f in found])
    return np.array([f.mean_cost for f in found]), right


def versus(ours: Curve, theirs: Curve, cost: float, times: float) -> str:
    """Returns the difference of test accuracy in points, with its interval."""
    right, other = at_cost(*ours, cost), at_cost(*theirs, cost * times)
    if right is None or other is None:
        return "-"
    gain = 100 * (right - other)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(gain), (DRAWS, len(gain)))
    low, high = np.quantile(gain[rows].mean(axis=1), [0.025, 0.975])
    return f"{gain.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def at_cost(costs: np.ndarray, right: np.ndarray, cost: float) -> np.ndarray | None:
    """Returns how often each sample is right at a mean cost, ``[N]``: of the two
    policies next to it, either at random; None below the cheapest."""
    below, above = np.flatnonzero(costs <= cost), np.flatnonzero(costs >= cost)
    if not len(below):
        return None
    low = below[np.argmax(costs[below])]
    if not len(above):
        return right[low].astype(float)
    high = above[np.argmin(costs[above])]
    span = costs[high] - costs[low]
    share = (cost - costs[low]) / span if span else 0.0
    return (1 - share) * right[low] + share * right[high]


if __name__ == "__main__":
    main()
