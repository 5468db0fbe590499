"""Heads that a policy does not run are charged nowhere."""

import dataclasses

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate

COSTS = np.array([1.0, 2.0, 3.5, 5.0])
HEADS = np.array([0.2, 0.4, 0.4, 0.1])


def make_split(seed: int) -> Split:
    """Exit 2 of four is no better than guessing: no policy should use it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 400).astype(np.int32)
    logits = rng.normal(size=(4, 400, 5))
    logits[:, np.arange(400), labels] += np.array([1.5, 0.0, 3.0, 4.0])[:, None]
    return Split(logits.astype(np.float32), labels)


@pytest.fixture(scope="module")
def given() -> Predictions:
    return Predictions(make_split(1), make_split(2), COSTS, "foos", HEADS)


@pytest.mark.parametrize("name", ["maxprob_opt", "pabee"])
@pytest.mark.parametrize("calibration", [0.0, 0.5])
def test_frontiers_charge_what_the_replay_charges(given, name, calibration) -> None:
    key = jax.random.key(0)
    frontier = schedulers.fit(name, given, key=key, calibration=calibration)
    whole = frontier.with_costs(given)
    cheaper = 0
    for m in range(0, len(frontier.member), 7):
        policy = frontier.policy(m)
        run = simulate(policy, given.val, COSTS, HEADS)
        assert whole.val_cost[m] == pytest.approx(run.mean_cost, rel=1e-9)
        if not calibration:
            assert frontier.val_cost[m] == pytest.approx(run.mean_cost, rel=1e-9)
        else:
            np.testing.assert_allclose(
                frontier.held.costs[m], policy.charges(COSTS, HEADS)
            )
        cheaper += run.mean_cost < simulate(policy, given.val, COSTS).mean_cost
    assert (cheaper > 0) == (name == "maxprob_opt")  # patience looks at every exit


def test_a_budget_below_the_heads_of_all_exits_buys_the_last(given) -> None:
    frontier = schedulers.fit("maxprob_opt", given, key=jax.random.key(0))
    unknown = dataclasses.replace(given, head_costs=None)
    other = schedulers.fit("maxprob_opt", unknown, key=jax.random.key(0))
    budget = 3.0
    runs = [simulate(f.for_budget(budget), given.val, COSTS) for f in (frontier, other)]
    charged = simulate(frontier.for_budget(budget), given.val, COSTS, HEADS)
    assert charged.mean_cost <= budget
    assert runs[0].mean_cost > runs[1].mean_cost  # what heads do not cost, stages may
