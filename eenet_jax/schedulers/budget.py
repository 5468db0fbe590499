"""The frontier: policies for every budget, from one fit."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays, save_arrays
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import adjust as adjust_lib
from eenet_jax.schedulers import calibration as calibration_lib
from eenet_jax.schedulers.policy import Policy, group_of, known_scorer, price_of

GROUPS = ("shared", "params", "held", "adjustment")  # of arrays, in a saved frontier
FIRST, LAST = 0, 1  # the candidates that send all samples to the first or last exit
ROUNDING = 1e-12  # relative, of a mean of float64 costs


@dataclasses.dataclass(frozen=True)
class Frontier:
    """Candidate policies with their cost and accuracy on the calibration split.

    The first two send all samples to the first and to the last exit.

    Attributes:
      scorer: Of all candidates.
      shared: The scorer's parameters that all candidates share; may be ``{}``.
      params: Those of which there are P, stacked, ``[P, ...]``; may be ``{}``.
      member: Which of the P each candidate uses, int32 ``[M]``.
      thresholds: float32 ``[M, K]``.
      val_cost: Mean cost on the calibration split, float64 ``[M]``.
      val_accuracy: Accuracy there, float64 ``[M]``; some schedulers estimate it.
      cost_unit: Unit of costs and budgets.
      num_samples: Size of the calibration split.
      held: Samples held out for guarantees, or None.
      adjustment: Of the network's logits, for all candidates, or None.
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
    held: calibration_lib.HeldOut | None = None
    adjustment: adjust_lib.Adjustment | None = None

    def for_budget(self, budget: float, confidence: float | None = None) -> Policy:
        """Returns the policy for a budget.

        Without ``confidence``, its mean cost on the calibration split is at most the
        budget; with it, the mean cost on new data of the same kind is, with that
        probability. The budget is spent as far as it buys accuracy (see ``path``), so
        the cost does not fall as the budget rises, and a budget that affords everything
        gets the most accurate policy, not the most expensive.

        Args:
          budget: Mean cost per sample, in ``cost_unit``.
          confidence: In (0, 1), e.g. 0.95; needs a frontier fitted with
            ``calibration`` (see ``schedulers.fit``).

        Raises:
          UserError: If every candidate costs more, naming the cheapest.
        """
        limit = budget * (1 + ROUNDING)
        if limit < self.val_cost[FIRST]:
            raise UserError(
                f"budget={budget:g} {self.cost_unit} is below the cheapest possible "
                f"cost, {self.val_cost[FIRST]:g} (everyone stops at exit 1); raise it"
            )
        if confidence is None:
            place = np.searchsorted(self.val_cost[self.path], limit, "right") - 1
            return self.policy(int(self.path[place]))
        held = calibration_lib.held_out(self.held, confidence)
        upward = np.append(FIRST, self.path)
        place = held.certify_cost(upward, budget, confidence)
        return self.policy(int(upward[place]))

    def for_drop(self, max_drop: float, confidence: float) -> Policy:
        """Returns the cheapest policy that is hardly less accurate than the last exit.

        With probability ``confidence``, its accuracy on new data of the same kind is at
        most ``max_drop`` below that of the full network, whose answers are adjusted too
        if the policy's are.

        Args:
          max_drop: In [0, 1), e.g. 0.005 for half a point.
          confidence: In (0, 1); needs a frontier fitted with ``calibration``.
        """
        held = calibration_lib.held_out(self.held, confidence)
        downward = np.append(LAST, self.path[::-1])
        place = held.certify_drop(downward, max_drop, confidence)
        return self.policy(int(downward[place]))

    def for_accuracy(self, min_accuracy: float, split: Split) -> Policy:
        """Returns the cheapest policy worth having that is this accurate on a split.

        Raises:
          UserError: If none is, naming what there is.
        """
        adjusted = adjust_lib.adjust_split(self.adjustment, split)
        accuracy = np.empty(len(self.member))
        for m, scores in self._scores(split):
            accuracy[m] = adjusted.accuracy_at(self._first(m, scores))
        accuracy = accuracy[self.path]
        enough = accuracy >= min_accuracy
        if not enough.any():
            low, high = np.floor(1e4 * accuracy.min()), np.floor(1e4 * accuracy.max())
            raise UserError(
                f"--min_accuracy={min_accuracy:g} is out of reach: policies have "
                f"{low / 1e4:g} to {high / 1e4:g} on the validation part"
            )
        return self.policy(int(self.path[np.argmax(enough)]))

    @functools.cached_property
    def path(self) -> np.ndarray:
        """The candidates worth having, by rising cost, int ``[M']``.

        It ends at the most accurate one (of equals the most expensive). On the way,
        a candidate is left out if a cheaper one is more accurate by more than half a
        standard error; smaller differences say nothing about new data, where more
        spent is likelier to help.
        """
        order = np.lexsort((self.val_accuracy, self.val_cost))
        accuracy = self.val_accuracy[order]
        best = np.maximum.accumulate(accuracy)
        error = np.sqrt(best * (1 - best) / self.num_samples)
        peak = len(order) - 1 - np.argmax(accuracy[::-1])
        keep = (accuracy >= best - error / 2) & (np.arange(len(order)) <= peak)
        return order[keep]

    def calibrate(self, split: Split, predictions: Predictions) -> "Frontier":
        """Returns the frontier with held-out samples for guarantees.

        Args:
          split: Samples that no part of the frontier was fitted to, with the network's
            own logits.
          predictions: What exits cost.
        """
        correct = adjust_lib.adjust_split(self.adjustment, split).correct
        exits, spent = self._replay(split, predictions)
        costs = self._charges(predictions)
        if not self.policy(FIRST).skips:
            spent = None  # the costs at the exits say it all
        held = calibration_lib.HeldOut(exits, correct, costs, spent)
        return dataclasses.replace(self, held=held)

    def with_costs(self, predictions: Predictions) -> "Frontier":
        """Returns the frontier with costs measured on the validation part of these.

        They may have another unit, or be another measurement, than those it was fitted
        for. Guarantees keep the samples that they had;
        of policies that skip exits there are none at other costs.
        """
        self.policy(FIRST).check_for(predictions.val, predictions.costs)
        _, spent = self._replay(predictions.val, predictions)
        charges, held = self._charges(predictions), self.held
        if held is not None and held.spent is None:
            held = dataclasses.replace(held, costs=charges)
        elif held is not None and not np.allclose(held.costs, charges):
            held = None  # which exits its samples asked is not known any more
        return dataclasses.replace(
            self,
            val_cost=spent.mean(axis=1),
            cost_unit=predictions.cost_unit,
            held=held,
        )

    def _charges(self, predictions: Predictions) -> np.ndarray:
        """Returns what each candidate is charged at each exit, ``[M, K]``.

        Of policies that skip exits, the least and the most that any path costs.
        """
        policies = map(self.policy, range(len(self.member)))
        found = np.stack([policy.charges(*predictions.prices) for policy in policies])
        if self.policy(FIRST).skips:
            found[:, 0] = predictions.single_exit_costs.min()
        return found

    def _replay(
        self, split: Split, predictions: Predictions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns exits, uint8, and costs of all candidates for a split, ``[M, N]``."""
        exits = np.empty((len(self.member), split.num_samples), np.uint8)
        spent = np.empty(exits.shape)
        for m, scores in self._scores(split):
            exits[m] = self._first(m, scores)
            charges = self.policy(m).charges(*predictions.prices, scores)
            spent[m] = price_of(charges, exits[m])
        return exits, spent

    def _first(self, m: int, scores: np.ndarray) -> np.ndarray:
        return np.argmax(scores >= self.thresholds[m][:, None], axis=0)

    def _scores(self, split: Split) -> Iterator[tuple[int, np.ndarray]]:
        """Yields every candidate with its scores ``[K, N]``, member by member."""
        for p in np.unique(self.member):
            rows = np.flatnonzero(self.member == p)
            scores = score_split(self.policy(int(rows[0])), split)
            yield from ((int(m), scores) for m in rows)

    def policy(self, m: int) -> Policy:
        """Returns candidate ``m``."""
        member = self.member[m]
        params = {name: leaf[member] for name, leaf in self.params.items()}
        params = {**self.shared, **params}
        return Policy(self.scorer, params, self.thresholds[m], self.adjustment)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the frontier to one ``.npz`` file, whole or not at all."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        held = fields.pop("held")
        held = {} if held is None else vars(held)
        fields["held"] = {name: v for name, v in held.items() if v is not None}
        fields["adjustment"] = adjust_lib.to_arrays(self.adjustment)
        for group in GROUPS:
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
        names = {f.name for f in dataclasses.fields(cls)} - set(GROUPS)
        missing = names - arrays.keys()
        if missing:
            raise UserError(f"{path} holds no frontier: {sorted(missing)} missing")
        values = {name: arrays[name] for name in names}
        values["scorer"] = known_scorer(path, arrays)
        values["cost_unit"] = str(values["cost_unit"])
        values["num_samples"] = int(values["num_samples"])
        groups = {group: group_of(arrays, group) for group in GROUPS}
        held = groups.pop("held")
        held = calibration_lib.HeldOut(**held) if held else None
        adjustment = adjust_lib.from_arrays(groups.pop("adjustment"))
        return cls(**groups, held=held, adjustment=adjustment, **values)


_scores = jax.jit(Policy.scores)


def score_split(policy: Policy, split: Split) -> np.ndarray:
    """Scores a whole split at all exits, float32 ``[K, N]``."""
    shown = split.logits, split.features, split.confidence
    return np.asarray(_scores(policy, *shown))
