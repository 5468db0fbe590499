"""Replays policies on predictions and measures what they do."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from eenet_jax import examples, map_examples, metrics, paths
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import Decisions, simulate
from eenet_jax.schedulers.adjust import adjust_split
from eenet_jax.schedulers.policy import Policy

Chosen = Iterable[tuple[float | None, Policy]]
# Runs policies for real: what is found of each, and what holds for all.
Run = Callable[[Sequence[Policy]], tuple[list[dict[str, Any]], dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the policies of one fit, one for each of Q budgets, did.

    Attributes:
      records: One a budget, as in ``results.json``.
      exits: Exits taken on the test part, uint8 or wider, ``[Q, N]``.
      policies: What was measured, as many.
      spent: What each sample of the test part costs, ``[Q, N]``.
      middle: Of the policy whose budget is nearest to the middle of the cost range,
        among those that decide by the sample if there are any:
        where a sample has one class ``score_quality``, ``per_class`` and ``examples``,
        and of one that skips exits ``paths``, as in ``results.json``.
    """

    records: list[dict[str, Any]]
    exits: np.ndarray
    policies: list[Policy]
    spent: np.ndarray
    middle: dict[str, dict[str, Any]]


def measure(
    chosen: Chosen,
    predictions: Predictions,
    added: Mapping[str, Any],
    energy_model: Mapping[str, Any] | None = None,
) -> Measured:
    """Replays policies; a budget of None stands for the policy's validation cost."""
    costs = predictions.costs
    middle_cost = (costs[0] + costs[-1]) / 2
    records, exits, spent, policies = [], [], [], []
    nearest, middle = (True, np.inf), None
    for budget, policy in chosen:
        record, on_test = _record(predictions, policy, budget)
        records.append({**added, **record})
        policies.append(policy)
        exits.append(on_test.exit_index.astype(np.min_scalar_type(len(costs))))
        spent.append(on_test.cost)
        # Policies that stop everyone at one exit have little to show.
        away = not _decides(policy), abs(record["budget"] - middle_cost)
        if away < nearest:
            nearest = away
            middle = policy, on_test, record["budget"]
    policy, on_test, budget = middle
    if predictions.metric == "accuracy":
        found = _of_classes(policy, predictions, on_test, budget)
    else:
        shown = map_examples.choose(
            predictions.test, on_test.exit_index, predictions.samples_per_image
        )
        found = {"examples": {"budget": budget, "exits": shown}}
    if policy.skips:
        ways = paths.statistics(policy, predictions, on_test)
        if energy_model is not None:
            ways["dvfs"] = paths.scaled(predictions, on_test, energy_model)
        found["paths"] = {"budget": budget, **ways}
    return Measured(records, np.stack(exits), policies, np.stack(spent), found)


def _of_classes(
    policy: Policy, predictions: Predictions, on_test: Decisions, budget: float
) -> dict[str, dict[str, Any]]:
    """Returns what ``Measured.middle`` has where a sample has one class."""
    test = predictions.test
    adjusted = adjust_split(policy.adjustment, test)
    correct = adjusted.correct
    of_classes = metrics.per_class(
        on_test.exit_index,
        correct,
        test.labels,
        on_test.cost,
        predictions.num_classes,
    )
    quality = metrics.score_quality(policy.scorer, on_test.scores, correct)
    shown = examples.choose(
        adjusted.logits, on_test.labels, test.labels, on_test.exit_index
    )
    return {
        "score_quality": quality,
        "per_class": {"budget": budget, **of_classes},
        "examples": {"budget": budget, "exits": shown},
    }


def _record(
    predictions: Predictions, policy: Policy, budget: float | None
) -> tuple[dict[str, Any], Decisions]:
    """Returns the record, and what the policy did on the test part."""
    val, test = predictions.val, predictions.test
    on_val = simulate(policy, val, *predictions.prices)
    on_test = simulate(policy, test, *predictions.prices)
    budget = on_val.mean_cost if budget is None else budget
    record = {
        "budget": budget,
        "val_accuracy": on_val.quality(val),
        "val_cost": on_val.mean_cost,
        "test_accuracy": on_test.quality(test),
        "test_cost": on_test.mean_cost,
        "met": bool(on_val.mean_cost <= budget * (1 + 1e-9)),
        "thresholds": [_number(t) for t in np.asarray(policy.thresholds)],
        "exit_fraction": on_test.exit_fraction.tolist(),
        "accuracy_where_taken": _accuracy_where_taken(on_test, test),
    }
    if _decides(policy) and "alpha" in policy.params:
        record["alpha"] = float(policy.params["alpha"])
    return record, on_test


def _decides(policy: Policy) -> bool:
    """Says whether any exit of a policy depends on the sample."""
    return bool(np.isfinite(np.asarray(policy.thresholds)).any())


def _accuracy_where_taken(decisions: Decisions, split: Split) -> list[float | None]:
    """Accuracy (or mean IoU) of those who left at each exit; None where nobody did."""
    taken = [decisions.exit_index == k for k in range(len(decisions.scores))]
    if split.confusion is not None:
        return [
            split.take(np.flatnonzero(t)).exit_accuracy[k].item() if t.any() else None
            for k, t in enumerate(taken)
        ]
    right = decisions.labels == split.labels
    return [float(right[t].mean()) if t.any() else None for t in taken]


def _number(value: float) -> float | str:
    """Returns a threshold as JSON can hold it."""
    return float(value) if np.isfinite(value) else str(float(value))
