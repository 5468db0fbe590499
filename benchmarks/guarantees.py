"""Do guarantees hold, and what do they leave unused?

    python -m benchmarks.guarantees FILE.npz [FILE.npz ...]
        [--scheduler=lagrangian,maxprob_opt] [--draws=500] [--samples=5000]

Fits a scheduler on half of a file's validation rows and takes all other rows as the
population. Then draws calibration sets from it, with replacement, certifies a policy
with each at 95 % and looks up what the policy does on the population. Violations come
with their exact 95 % binomial interval.

"used" is the population's mean cost as a share of the budget, or its mean drop in
accuracy as a share of what is allowed. "normal" is the same for a normal bound, mean
+ 1.645 sd / sqrt(N), at the same candidates in the same order, up to the first that
fails. "any" looks further, for the last candidate within that bound, whatever fails
before it: with so many tries, no 95 % bound any more, as its violations show.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from scipy.stats import beta

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split, load_predictions
from eenet_jax.schedulers import calibration as calibration_lib
from eenet_jax.schedulers.budget import FIRST, LAST, Frontier

CONFIDENCE, NORMAL_QUANTILE = 0.95, 1.645
SHARES = (0.25, 0.5, 0.75)
DROPS = (0.005, 0.01)
HEADS = ["file", "scheduler", "target", "violations", "95 % interval"]
HEADS += ["used", "normal", "used / normal", "any", "any: violations"]


class Chooser(Frontier):
    """A frontier that names the candidates it chooses."""

    def policy(self, m: int) -> int:
        """Returns ``m`` itself."""
        return m


@dataclasses.dataclass(frozen=True)
class Population:
    """What candidates do with the rows that did not fit them.

    Attributes:
      held: All of these rows.
      chooser: The candidates.
      values: Cost, and loss of accuracy against the last exit, of every candidate and
        row, float32 ``[2, M, N]``.
    """

    held: calibration_lib.HeldOut
    chooser: Chooser
    values: np.ndarray


def fit(name: str, given: Predictions, seed: int) -> Population:
    """Fits on half of the validation rows; the rest and the test part are left."""
    val, test = given.val, given.test
    order = np.random.default_rng(seed).permutation(val.num_samples)
    used, left = np.split(order, [val.num_samples // 2])
    fitted_on = dataclasses.replace(given, val=val.take(np.sort(used)))
    frontier = schedulers.fit(name, fitted_on, key=jax.random.key(seed))
    rest = val.take(left)
    features = None
    if rest.features is not None:
        pairs = zip(rest.features, test.features, strict=True)
        features = tuple(np.concatenate(pair) for pair in pairs)
    rows = Split(
        np.concatenate([rest.logits, test.logits], axis=1),
        np.concatenate([rest.labels, test.labels]),
        features,
    )
    held = frontier.calibrate(rows, given).held
    fields = {f.name: getattr(frontier, f.name) for f in dataclasses.fields(frontier)}
    right = held.correct.astype(np.float32)
    lost = (right[-1] - right)[held.exits, np.arange(len(rows.labels))]
    spent = held.spent
    if spent is None:
        spent = np.take_along_axis(held.costs, held.exits.astype(int), 1)
    values = np.stack([spent.astype(np.float32), lost])
    return Population(held, Chooser(**fields), values)


def measure(
    population: Population, targets: Sequence[tuple[bool, float]], rows: np.ndarray
) -> np.ndarray:
    """Certifies again and again.

    Args:
      population: Of N rows.
      targets: T pairs: whether it is a drop that is limited or the cost; the limit.
      rows: Calibration sets, int ``[draws, S]``.

    Returns:
      Population means of the policies certified, and of those that the normal bound
      allows in order and anywhere, ``[T, 3, draws]``.
    """
    held, chooser = population.held, population.chooser
    bounds = normal_bounds(population.values, rows)
    means = population.values.mean(axis=2, dtype=np.float64)
    results = np.empty((len(targets), 3, len(rows)))
    for i, drawn in enumerate(rows):
        correct = held.correct[:, drawn]
        spent = None if held.spent is None else held.spent[:, drawn]
        exits = held.exits[:, drawn]
        sample = calibration_lib.HeldOut(exits, correct, held.costs, spent)
        certifier = dataclasses.replace(chooser, held=sample)
        for t, (of_drop, limit) in enumerate(targets):
            if of_drop:
                chosen = certifier.for_drop(limit, CONFIDENCE)
                path = np.append(LAST, chooser.path[::-1])
            else:
                chosen = certifier.for_budget(limit, CONFIDENCE)
                path = np.append(FIRST, chooser.path)
            passed = bounds[int(of_drop), path, i] <= limit
            passed[0] = True
            in_order = path[np.argmin(np.append(passed, False)) - 1]
            anywhere = path[np.flatnonzero(passed)[-1]]
            results[t, :, i] = means[int(of_drop), [chosen, in_order, anywhere]]
    return results


def normal_bounds(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns upper 95 % bounds of means by the normal distribution.

    Args:
      values: ``[2, M, N]``.
      rows: Samples drawn, int ``[draws, S]``.

    Returns:
      float64 ``[2, M, draws]``.
    """
    count = [np.bincount(drawn, minlength=values.shape[2]) for drawn in rows]
    share = np.stack(count, axis=1).astype(np.float32) / rows.shape[1]  # [N, draws]
    mean = (values @ share).astype(np.float64)
    variance = np.maximum((values**2) @ share - mean**2, 0)
    return mean + NORMAL_QUANTILE * np.sqrt(variance / rows.shape[1])


def describe(results: np.ndarray, limit: float) -> list[str]:
    """Returns the cells of a row of the table, from the violations on."""
    count = results.shape[1]
    over, _, any_over = (results > limit * (1 + 1e-6)).sum(axis=1)
    low = beta.ppf(0.025, over, count - over + 1) if over else 0.0
    high = beta.ppf(0.975, over + 1, count - over) if over < count else 1.0
    used, normal, anywhere = results.mean(axis=1) / limit
    shares = [used, normal, used / normal, anywhere, any_over / count]
    interval = f"{low:.1%} to {high:.1%}"
    return [f"{over / count:.1%}", interval, *(f"{share:.1%}" for share in shares)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--scheduler", default="lagrangian,maxprob_opt")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| " + " | ".join(HEADS) + " |")
    print("|" + " --- |" * len(HEADS))
    for path in args.files:
        given = load_predictions(path)
        low, high = given.costs[0], given.costs[-1]
        targets = [(False, low + share * (high - low)) for share in SHARES]
        targets += [(True, drop) for drop in DROPS]
        names = [f"cost, {share:.0%}" for share in SHARES]
        names += [f"drop, {drop:g}" for drop in DROPS]
        for scheduler in args.scheduler.split(","):
            population = fit(scheduler, given, args.seed)
            size = population.values.shape[2]
            rng = np.random.default_rng(args.seed)
            rows = rng.integers(0, size, (args.draws, args.samples))
            results = measure(population, targets, rows)
            for name, (_, limit), result in zip(names, targets, results, strict=True):
                cells = [path.stem, f"`{scheduler}`", name, *describe(result, limit)]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
