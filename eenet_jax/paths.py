"""What a policy that skips exits does, exit by exit: tests, forecasts, costs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.costs.energy import EnergyModel, scale_to_forecasts
from eenet_jax.metrics import finite_or_none
from eenet_jax.predictions import Predictions
from eenet_jax.runtime.replay import Decisions
from eenet_jax.schedulers.evidence import Evidence
from eenet_jax.schedulers.policy import Policy


def statistics(
    policy: Policy, predictions: Predictions, decisions: Decisions
) -> dict[str, Any]:
    """Measures a policy that skips on the test part, ready for JSON.

    Args:
      policy: Whose ``skips`` is True.
      predictions: Of K exits.
      decisions: What the policy did on the test part.

    Returns:
      For each of the K exits, in shares of all samples: ``asked`` (its head is run),
      ``left``; ``accuracy`` of those who left there and their mean ``cost`` (None where
      nobody did). For the exits but the last ``forecasts`` (who was asked and stayed,
      in shares of all) and what became of these, in shares of them, None without any:
      ``hit`` (the exit named is the first of the later ones that lets the sample
      leave), ``late`` (an earlier one would have let it) and ``early`` (it does not).
      And ``unasked``: a reason for each exit that no sample was asked at.
    """
    test, taken = predictions.test, decisions.exit_index
    num_exits, columns = predictions.num_exits, np.arange(len(taken))
    asked = _asked(decisions)
    scores, targets = jax.device_get(_everywhere(policy, test.logits))
    lets = scores >= np.asarray(policy.thresholds)[:, None]
    lets[-1] = True
    right = decisions.labels == test.labels
    named: dict[str, list[float]] = {
        "forecasts": [],
        "hit": [],
        "late": [],
        "early": [],
    }
    for k in range(num_exits - 1):
        made = asked[k] & (taken > k)
        target = np.clip(targets[k], k + 1, num_exits - 1)  # behind the last tested
        first = k + 1 + np.argmax(lets[k + 1 :], axis=0)
        hit, late = (first == target)[made], (first < target)[made]
        passes = lets[target, columns][made]
        named["forecasts"].append(float(made.mean()))
        for name, share in (("hit", hit), ("late", late), ("early", ~passes & ~late)):
            named[name].append(float(share.mean()) if made.any() else np.nan)
    left = [taken == k for k in range(num_exits)]
    return {
        "asked": asked.mean(axis=1).tolist(),
        "left": [float(here.mean()) for here in left],
        "accuracy": _means(right, left),
        "cost": _means(decisions.cost, left),
        **{name: finite_or_none(values) for name, values in named.items()},
        "unasked": _reasons(asked.any(axis=1), predictions),
    }


def scaled(
    predictions: Predictions, decisions: Decisions, fields: Mapping[str, Any]
) -> dict[str, float]:
    """Says what DVFS makes of a policy's forecasts, ready for JSON.

    Args:
      predictions: With costs in millijoules at the highest level.
      decisions: What the policy did on the test part.
      fields: Of the ``EnergyModel`` that these are from.

    Returns:
      Means over samples: ``energy_mj`` and ``ms`` with DVFS, ``highest_mj`` and
      ``highest_ms`` without; ``full_mj`` and ``full_ms`` of the full network alone; and
      ``late``, the share of samples that take longer than it.
    """
    model = EnergyModel(**fields)
    watts, full = model.watts[-1], float(predictions.single_exit_costs[-1])
    backbone, heads = (costs / watts for costs in predictions.split_costs)
    asked, spent = _asked(decisions), float(decisions.cost.mean())
    found = scale_to_forecasts(model, asked, decisions.exit_index, backbone, heads)
    return {
        "energy_mj": float(found.energy_mj.mean()),
        "ms": float(found.ms.mean()),
        "late": found.late,
        "highest_mj": spent,
        "highest_ms": float(spent / watts),
        "full_mj": full,
        "full_ms": float(full / watts),
    }


def _asked(decisions: Decisions) -> np.ndarray:
    """Returns which heads were run, bool ``[K, N]``."""
    exits = np.arange(len(decisions.scores))[:, None]
    return (decisions.scores > -np.inf) & (exits <= decisions.exit_index)


def _means(values: np.ndarray, groups: list[np.ndarray]) -> list[Any]:
    means = [values[group].mean() if group.any() else np.nan for group in groups]
    return finite_or_none(means)


@jax.jit
def _everywhere(policy: Policy, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns scores and next targets as if every exit were asked, ``[K, N]``."""
    scores, targets = [], []
    for k in range(policy.num_exits):
        trail = policy.init_trail(logits.shape[1])
        trail = jax.tree.map(lambda leaf, k=k: jnp.full_like(leaf, k), trail)
        score, trail = policy.step(k, Evidence(logits[k]), trail)
        scores.append(score)
        targets += jax.tree.leaves(trail)
    return jnp.stack(scores), jnp.stack(targets)


def _reasons(asked: np.ndarray, predictions: Predictions) -> list[str]:
    """Says of each exit that is not asked what it would cost and could save."""
    backbone, heads = predictions.split_costs
    unit, reasons = predictions.cost_unit, []
    for k in np.flatnonzero(~asked):
        if not asked[k:].any():
            reasons.append(f"exit {k + 1}: everyone has left before")
            continue
        following = k + 1 + np.argmax(asked[k + 1 :])
        saved = backbone[following] - backbone[k]
        reasons.append(
            f"exit {k + 1}: no forecast names it; its head costs {heads[k]:.3g} "
            f"{unit}, and leaving there saves {saved:.3g} over exit {following + 1}"
        )
    return reasons
