"""The frontier: policies for every budget, from one fit."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays, save_arrays
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import thresholds as thresholds_lib
from eenet_jax.schedulers.policy import Policy, group_of, known_scorer

ROUNDING = 1e-12  # relative, of a mean of float64 costs


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Candidate policies with their cost and accuracy on the calibration split.

    Attributes:
      scorer: Of all candidates.
      shared: The scorer's parameters that all candidates share; may be ``{}``.
      params: Those of which there are P, stacked, ``[P, ...]``; may be ``{}``.
      member: Which of the P each candidate uses, int32 ``[M]``.
      thresholds: float32 ``[M, K]``.
      val_cost: Mean cost on the calibration split, float64 ``[M]``.
      val_accuracy: Accuracy there, float64 ``[M]``.
      cost_unit: Unit of costs and budgets.
      num_samples: Size of the calibration split.
    """

    scorer: str
    shared: dict[str, Any]
    params: dict[str, Any]
    member: np.ndarray
    thresholds: np.ndarray
    val_cost: np.ndarray
    val_accuracy: np.ndarray
    cost_unit: str
    num_samples: int

    def for_budget(self, budget: float, confidence: float | None = None) -> Policy:
        """Returns the policy for a budget.

        Its mean cost on the calibration split is at most the budget. Up to the cost of
        the most accurate candidate the budget is spent: of the candidates that it
        affords, the most expensive is taken whose accuracy is within half a standard
        error of the best of them, as smaller differences say nothing about new data. So
        the cost does not fall as the budget rises, and a budget that affords everything
        gets the most accurate policy, not the most expensive.

        Args:
          budget: Mean cost per sample, in ``cost_unit``.
          confidence: For a bound that holds on new data; not available yet.

        Raises:
          UserError: If every candidate costs more, naming the cheapest.
        """
        if confidence is not None:
            raise UserError(
                f"--confidence={confidence} is not available in this version; leave it "
                "out, and the mean cost is kept on the validation split"
            )
        useful = self.val_cost <= self.val_cost[self._peak]
        affordable = np.flatnonzero(useful & (self.val_cost <= budget * (1 + ROUNDING)))
        if not len(affordable):
            raise UserError(
                f"budget={budget:g} {self.cost_unit} is below the cheapest possible "
                f"cost, {self.val_cost.min():g} (everyone stops at exit 1); raise it"
            )
        accuracy = self.val_accuracy[affordable]
        best = accuracy.max()
        error = np.sqrt(best * (1 - best) / self.num_samples)
        good = affordable[accuracy >= best - error / 2]
        order = np.lexsort((self.val_accuracy[good], self.val_cost[good]))
        return self.policy(int(good[order[-1]]))

    @property
    def _peak(self) -> int:
        """The most accurate candidate; of equally accurate ones the most expensive."""
        return int(np.lexsort((self.val_cost, self.val_accuracy))[-1])

    def policy(self, m: int) -> Policy:
        """Returns candidate ``m``."""
        member = self.member[m]
        params = {name: leaf[member] for name, leaf in self.params.items()}
        return Policy(self.scorer, {**self.shared, **params}, self.thresholds[m])

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the frontier to one ``.npz`` file, whole or not at all."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for group in ("shared", "params"):
            leaves = fields.pop(group)
            fields |= {f"{group}/{name}": np.asarray(v) for name, v in leaves.items()}
        save_arrays(pathlib.Path(path), fields)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Frontier":
        """Reads what ``save`` wrote.

        Raises:
          UserError: If the file cannot be read or holds no frontier.
        """
        arrays = load_arrays(pathlib.Path(path))
        names = {f.name for f in dataclasses.fields(cls)} - {"shared", "params"}
        missing = names - arrays.keys()
        if missing:
            raise UserError(f"{path} holds no frontier: {sorted(missing)} missing")
        values = {name: arrays[name] for name in names}
        values["scorer"] = known_scorer(path, arrays)
        values["cost_unit"] = str(values["cost_unit"])
        values["num_samples"] = int(values["num_samples"])
        groups = {g: group_of(arrays, g) for g in ("shared", "params")}
        return cls(**groups, **values)


def build_frontier(
    scorer: str,
    params: dict[str, Any],
    shares: list[np.ndarray],
    predictions: Predictions,
) -> Frontier:
    """Turns shares of samples per exit into candidate policies.

    Args:
      scorer: Name in ``SCORERS``.
      params: Stacked parameters, leaves ``[P, ...]``; ``{}`` for P = 1 without any.
      shares: For each of the P, shares wanted at each exit, ``[M_p, K]``.
      predictions: Their validation part calibrates; every exit's head is charged.
    """
    split, costs = predictions.val, predictions.costs
    values = outcome_values(split, costs)
    thresholds, means = [], []
    for p, rows in enumerate(shares):
        chosen = {name: leaf[p] for name, leaf in params.items()}
        policy = Policy(scorer, chosen, np.zeros(len(costs), np.float32))
        scores = score_split(policy, split)
        cuts = np.unique(thresholds_lib.thresholds_from_shares(scores, rows), axis=0)
        thresholds.append(cuts)
        means.append(thresholds_lib.realise(scores, cuts, values))
    return frontier_of(scorer, {}, params, thresholds, means, predictions)


def frontier_of(
    scorer: str,
    shared: dict[str, Any],
    params: dict[str, Any],
    thresholds: list[np.ndarray],
    means: list[np.ndarray],
    predictions: Predictions,
) -> Frontier:
    """Assembles candidates, with "all stop at the first exit" and "at the last".

    Args:
      scorer: Name in ``SCORERS``.
      shared: Parameters that all share.
      params: Stacked parameters, leaves ``[P, ...]``.
      thresholds: For each of the P, ``[M_p, K]``.
      means: For each of the P, accuracy and cost of its thresholds, ``[M_p, 2]``.
      predictions: Their validation part calibrates.
    """
    costs, split = predictions.costs, predictions.val
    ends = np.full((2, len(costs)), np.inf, np.float32)
    ends[0, 0] = ends[:, -1] = -np.inf
    of_ends = np.stack([split.correct.mean(axis=1), costs], axis=1)[[0, -1]]
    counts = [len(ends), *map(len, thresholds)]
    members = np.repeat([0, *range(len(thresholds))], counts)
    means = np.concatenate([of_ends, *means])
    return Frontier(
        scorer=scorer,
        shared={name: np.asarray(leaf) for name, leaf in shared.items()},
        params={name: np.asarray(leaf) for name, leaf in params.items()},
        member=members.astype(np.int32),
        thresholds=np.concatenate([ends, *thresholds]),
        val_accuracy=means[:, 0],
        val_cost=means[:, 1],
        cost_unit=predictions.cost_unit,
        num_samples=len(split.labels),
    )


def outcome_values(split: Split, costs: np.ndarray) -> np.ndarray:
    """Returns what each exit gives each sample: correct and cost, ``[2, K, N]``."""
    correct = split.correct.astype(np.float64)
    return np.stack([correct, np.broadcast_to(costs[:, None], correct.shape)])


_scores = jax.jit(Policy.scores)


def score_split(policy: Policy, split: Split) -> np.ndarray:
    """Scores a whole split at all exits, float32 ``[K, N]``."""
    return np.asarray(_scores(policy, split.logits))
