"""Replays a policy on saved predictions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Split
from eenet_jax.schedulers.policy import Policy, price_of
from eenet_jax.schedulers.thresholds import first_exit


@dataclasses.dataclass(frozen=True)
class Decisions:
    """What a policy did with N samples.

    Attributes:
      exit_index: Exit taken, int32 ``[N]``.
      labels: Class answered there, of the policy's outputs, int32 ``[N]``; of maps
        the one that most of the image has.
      scores: Scores at all exits, ``[K, N]``; those after the exit taken are what the
        policy would have said; -inf where it does not ask an exit.
      cost: Cost of each sample, float64 ``[N]``.
    """

    exit_index: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    cost: np.ndarray

    @property
    def mean_cost(self) -> float:
        """Mean cost per sample."""
        return float(self.cost.mean())

    @property
    def exit_fraction(self) -> np.ndarray:
        """Share of the samples that left at each exit, ``[K]``; sums to 1."""
        counts = np.bincount(self.exit_index, minlength=len(self.scores))
        return counts / len(self.exit_index)

    def accuracy(self, labels: np.ndarray) -> float:
        """Share of right answers, in [0, 1]."""
        return float((self.labels == labels).mean())

    def quality(self, split: Split) -> float:
        """Accuracy on the split that was replayed, or of maps the mean IoU."""
        if split.confusion is not None:
            return split.accuracy_at(self.exit_index)
        return self.accuracy(split.labels)


def simulate(
    policy: Policy,
    split: Split,
    costs: np.ndarray,
    head_costs: np.ndarray | None = None,
    gate_costs: np.ndarray | None = None,
) -> Decisions:
    """Replays a policy on one part of saved predictions.

    A sample is charged the backbone up to the exit it takes and the heads that the
    policy runs on the way (see ``Policy.charges``).

    Args:
      policy: K exits.
      split: K exits, N samples.
      costs: Cumulative cost up to each exit, all heads included, ``[K]``.
      head_costs: Of the heads alone, ``[K]``; None charges those of all exits up to
        the one taken.
      gate_costs: Of gates on features alone, ``[K]``; None charges nothing for them.

    Raises:
      UserError: If policy, split and costs do not agree on the number of exits, or
        policy and split on the number of classes.
    """
    policy.check_for(split, costs)
    exit_index, labels, scores = jax.device_get(
        _replay(policy, split.logits, split.features, split.confidence)
    )
    charges = policy.charges(costs, head_costs, gate_costs, scores)
    return Decisions(exit_index, labels, scores, price_of(charges, exit_index))


@jax.jit
def _replay(policy: Policy, logits: jax.Array, features: Any, confidence: Any):
    scores = policy.scores(logits, features, confidence)
    exit_index = first_exit(scores, policy.thresholds)
    answers = jnp.argmax(policy.outputs(logits), axis=-1)  # [K, N]
    answer = jnp.take_along_axis(answers, exit_index[None], axis=0)[0]
    return exit_index, answer.astype(jnp.int32), scores
