"""Does the compiled policy decide as its replay, whatever the network and scheduler?

    python -m benchmarks.agreement [--models=cifar_resnet,minilm] [--batch_sizes=1,7]

Every scheduler is fitted to the exits of every network, and its policy for the middle
of the cost range is run on samples in another order, in batches of several sizes, with
ladders of one size or two, or in tiles where there are many exits. Weights are fresh,
so BatchNorm gets the samples' own statistics, logits are standardised per exit and
class, and the right answers are what the exits mean together. Each line counts
decisions, those that differ from ``simulate``, and those that do so with a score within
1e-5 of the threshold.
"""

import argparse
import dataclasses
import time
from typing import Any

import jax
import numpy as np

from eenet_jax import backbones, runtime, schedulers
from eenet_jax.adaptive import agreement
from eenet_jax.backbones.staged import MANY_EXITS, Backbone
from eenet_jax.inference import evidence
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.staged import default_ladders
from eenet_jax.schedulers import eenet, lagrangian, leenet
from eenet_jax.schedulers.predictive import activation_means

SAMPLES = 256  # in each part
CLASSES = 4
SIDE = 64  # of the images of networks that are meant for larger ones
SIDES = {"msdnet35_5": 160}  # it needs as many
MAPS = "hrnet_"  # networks that answer for every pixel
TOKENS = 12
HEAD_COST = 0.3  # of a stage with its head
# Depth is free for one, and an exit after every layer makes enough to compile.
NARROW = {"width": 8, "codewords": 8}
OPTIONS = {
    "cifar_resnet": {"depth": 8},
    "predictive_vgg19": NARROW,
    "predictive_vgg19_stl10": NARROW,
    "predictive_resnet34": NARROW,
}
RECIPES = {
    "eenet": eenet.Recipe(restarts=2, steps=40, score_steps=100),
    "lagrangian": lagrangian.Recipe(prices=8, units=16, folds=3, ridges=(10.0, 100.0)),
    "leenet": leenet.Recipe(alphas=6, steps=50, penalties=((1e-3, 0.0),)),
}
SCHEDULERS = (
    *schedulers.SCHEDULERS,
    "eenet:published",
    "leenet:combined",
    "predictive_exit:published",
    "predictive_exit:every",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Standardised(Backbone):
    """A network whose logits have mean 0 and deviation 3 over samples.

    Attributes:
      mean: ``[K, C]``.
      deviation: Likewise.
    """

    mean: np.ndarray
    deviation: np.ndarray

    def head(self, k: int, variables: Any, carry: Any) -> jax.Array:
        logits = super().head(k, variables, carry)
        return 3 * (logits - self.mean[k]) / self.deviation[k]


def main() -> None:
    """Compares and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name in backbones.BACKBONES if not name.startswith(MAPS)]
    parser.add_argument("--models", default=",".join(names))
    parser.add_argument("--schedulers", default=",".join(SCHEDULERS))
    parser.add_argument("--batch_sizes", default="1,7,64,256")
    args = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)  # little runs for long
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    totals = np.zeros(3, int)
    for name in args.models.split(","):
        start = time.perf_counter()
        counts = compare(
            name, args.schedulers.split(","), map(int, args.batch_sizes.split(","))
        )
        totals += counts
        say(name, counts, time.perf_counter() - start)
    say("all", totals, None)


def say(name: str, counts: np.ndarray, seconds: float | None) -> None:
    """Prints a line."""
    took = "" if seconds is None else f" ({seconds:.0f} s)"
    print(
        f"{name}: {counts[0]} decisions, {counts[1]} otherwise, {counts[2]} otherwise "
        f"with a score near the threshold{took}",
        flush=True,
    )


def compare(name: str, names: list[str], batch_sizes: Any) -> np.ndarray:
    """Returns the three counts of one network, int ``[3]``."""
    rng = np.random.default_rng(0)
    backbone, variables, x = make_network(name, rng)
    see = jax.jit(lambda x: evidence(backbone, variables, x, "average"))
    seen = [jax.device_get(see(take(x, slice(i, i + SAMPLES)))) for i in (0, SAMPLES)]
    logits, features = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)
    logits = logits.swapaxes(0, 1)
    labels = (logits.mean(0) + rng.gumbel(size=logits.shape[1:])).argmax(-1)
    whole = Split(logits, labels.astype(np.int32), features)
    splits = [whole.take(rows) for rows in np.split(np.arange(2 * SAMPLES), 2)]
    costs = np.arange(1.0, backbone.num_exits + 1)
    scale = activation_means(splits[0].logits)
    predictions = Predictions(
        *splits,
        costs,
        head_costs=np.full(backbone.num_exits, HEAD_COST),
        activation_mean=scale,
        gate_inputs="average",
    )
    policies = [fit(which, predictions).for_budget(costs.mean()) for which in names]
    ours = take(x, slice(SAMPLES, None))
    counts = np.zeros(3, int)
    for turn, size in enumerate(batch_sizes):
        rows = rng.permutation(SAMPLES)[: max(size, 64) // size * size]
        for place, policy in enumerate(policies):
            # Two sizes take twice as long to compile: in every third case.
            two = (turn + place) % 3 == 0
            rungs = tuple(sorted({-(-size // 2), size})) if two else (size,)
            ladders = ((size,), *(rungs,) * (backbone.num_exits - 1))
            if backbone.num_exits > MANY_EXITS:
                ladders = default_ladders(backbone.num_exits, size)
            found = [
                runtime.adaptive_predict(
                    backbone, variables, policy, take(ours, part), ladders=ladders
                )
                for part in rows.reshape(-1, size)
            ]
            exits = np.concatenate([part.exit_index for part in found])
            answers = np.concatenate([part.label for part in found])
            other = agreement(policy, splits[1].take(rows), exits, answers)
            counts += [len(rows), *other.values()]
        jax.clear_caches()  # a process can map only so many programs
    return counts


def fit(name: str, predictions: Predictions) -> schedulers.Frontier:
    """Fits a scheduler, with less effort where that can be chosen."""
    base, _, variant = name.partition(":")
    options: dict[str, Any] = {"variant": variant} if variant else {}
    if base in RECIPES and variant != "published":
        options["recipe"] = RECIPES[base]
    options["budgets"] = np.linspace(*predictions.costs[[0, -1]], 5)
    jax.config.update("jax_disable_most_optimizations", variant != "published")
    found = schedulers.SCHEDULERS[base](predictions, key=jax.random.key(0), **options)
    jax.config.update("jax_disable_most_optimizations", True)
    return found


def make_network(name: str, rng: np.random.Generator) -> tuple[Backbone, Any, Any]:
    """Builds a network with fresh variables and inputs for two parts."""
    plain = backbones.build(name, num_classes=CLASSES, **OPTIONS.get(name, {}))
    if plain.input_kind == "text":
        shape = (2 * SAMPLES, TOKENS)
        lengths = rng.integers(3, TOKENS + 1, 2 * SAMPLES)
        x = {
            "ids": rng.integers(0, plain.vocab_size, shape).astype(np.int32),
            "mask": (np.arange(TOKENS) < lengths[:, None]).astype(np.int32),
        }
    else:
        side = min(SIDES.get(name, SIDE), plain.module.image_size)
        scale, shift = rng.uniform(0.2, 2, (2, 2 * SAMPLES, 1, 1, 3))
        x = scale * rng.standard_normal((2 * SAMPLES, side, side, 3)) + shift
        x = x.astype(np.float32)
    variables = jax.jit(plain.init)(jax.random.key(0), take(x, slice(1)))
    first = take(x, slice(SAMPLES))
    variables = {
        **variables,
        **own_statistics(plain, variables, take(first, slice(64))),
    }
    logits = np.asarray(jax.jit(lambda v, x: plain.apply(v, x)[0])(variables, first))
    spread = logits.mean(axis=1), logits.std(axis=1)
    return (
        Standardised(**vars(plain), mean=spread[0], deviation=spread[1]),
        variables,
        x,
    )


def own_statistics(network: Backbone, variables: Any, x: Any) -> dict[str, Any]:
    """Returns BatchNorm's running statistics as if it had long seen these samples.

    With fresh ones the logits of a deep network are constants but for rounding.
    """
    rngs = {"dropout": jax.random.key(1)}
    step = jax.jit(lambda v: network.apply(v, x, train=True, rngs=rngs)[1])
    old = {name: leaf for name, leaf in variables.items() if name != "params"}
    return jax.tree.map(lambda new, was: (new - 0.9 * was) / 0.1, step(variables), old)


def take(x: Any, rows: Any) -> Any:
    """Returns some of the samples."""
    return jax.tree.map(lambda leaf: leaf[rows], x)


if __name__ == "__main__":
    main()
