"""A small network with three exits, and policies that use all of them."""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import schedulers
from eenet_jax.backbones.staged import Backbone, StagedModule
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers.adjust import Adjustment
from eenet_jax.schedulers.policy import Policy

NUM = 70  # samples
SCORERS = ("max_prob", "entropy", "patience", "eenet", "lagrangian", "ensemble")


class Network(NamedTuple):
    """A network, samples, and the logits of all exits ``[K, N, C]``."""

    backbone: Backbone
    variables: dict
    x: np.ndarray
    logits: np.ndarray


class Layer(nn.Module):
    """The smallest stem, stage or head: a linear layer over all that it gets."""

    width: int
    scale: float = 1.0

    def features(self, carry):
        return carry["x"]

    @nn.compact
    def __call__(self, carry, train=False):
        x = carry["x"] if isinstance(carry, dict) else carry.mean((1, 2))
        y = self.scale * nn.Dense(self.width)(x)
        return {"x": jnp.tanh(y), "count": x[:, 0]} if self.scale == 1 else y


@dataclasses.dataclass(frozen=True, eq=False)
class Counted(Backbone):
    """Notes in ``ran`` which heads run."""

    ran: list = dataclasses.field(default_factory=list)

    def head(self, k, variables, carry):
        jax.debug.callback(lambda: self.ran.append(k))
        return super().head(k, variables, carry)


def make_network(num_exits: int = 3) -> Network:
    """A few stages on 2x2 images; its exits often agree."""
    stages = tuple(Layer(8) for _ in range(num_exits))
    heads = tuple(Layer(4, 3.0) for _ in range(num_exits))
    module = StagedModule(Layer(8), stages, heads)
    backbone = Backbone("toy", num_exits, 4, "float32", module)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NUM, 2, 2, 3)).astype(np.float32)
    variables = jax.jit(backbone.init)(jax.random.key(0), x[:1])
    kernels = variables["params"]
    for k in range(1, num_exits):  # later stages change little, and heads read alike
        stage = kernels[f"stages_{k}"]["Dense_0"]
        stage["kernel"] = jnp.eye(8) + 0.3 * stage["kernel"]
        kernels[f"heads_{k}"] = kernels["heads_0"]
    logits = jax.jit(lambda v, x: backbone.apply(v, x)[0])(variables, x)
    return Network(backbone, variables, x, np.asarray(logits))


@functools.cache
def _parameters(scorer: str) -> dict:
    rng = np.random.default_rng(1)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    if scorer == "eenet":
        return {"weights": draw(3, 4 + 2 + 3), "bias": draw(3)}
    return {}


def policy_of(scorer: str, network: Network) -> Policy:
    """A policy that lets about 40 % leave at first, and then more."""
    if scorer == "lagrangian":
        labels = np.random.default_rng(2).integers(0, 4, NUM).astype(np.int32)
        split = Split(network.logits, labels)
        predictions = Predictions(split, split, np.array([1.0, 2.0, 3.0]))
        fitted = schedulers.fit(
            "lagrangian:stopping", predictions, key=jax.random.key(0)
        )
        return fitted.for_budget(2.0)
    adjustment = None
    if scorer == "ensemble":
        scorer, adjustment = "max_prob", Adjustment(jnp.array([1.5, 0.8, 1.2]), True, 4)
    unset = jnp.full(3, -jnp.inf)
    policy = Policy(scorer, _parameters(scorer), unset, adjustment)
    scores = np.asarray(policy.scores(jnp.asarray(network.logits)))
    thresholds = [2.0, 2.0] if scorer == "patience" else None
    if thresholds is None:  # halfway between two scores
        ordered = np.sort(scores, axis=1)
        thresholds = [ordered[k, i : i + 2].mean() for k, i in ((0, 42), (1, 30))]
    thresholds = jnp.array([*thresholds, -jnp.inf], jnp.float32)
    return Policy(scorer, policy.params, thresholds, adjustment)
