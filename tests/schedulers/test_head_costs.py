"""Heads that a policy does not run are charged nowhere."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import leenet

QUICK_COMPILES = True  # see conftest.py

COSTS = np.array([1.0, 2.0, 3.5, 5.0])
HEADS = np.array([0.2, 0.4, 0.4, 0.1])
GATES = np.array([0.01, 0.01, 0.01, 0.0])


def make_split(seed: int) -> Split:
    """Exit 2 of four is no better than guessing: no policy should use it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 400).astype(np.int32)
    logits = rng.normal(size=(4, 400, 5))
    logits[:, np.arange(400), labels] += np.array([1.5, 0.0, 3.0, 4.0])[:, None]
    features = np.sort(logits[:3])[..., -2:].astype(np.float32)
    return Split(logits.astype(np.float32), labels, tuple(features))


@pytest.fixture(scope="module")
def given() -> Predictions:
    return Predictions(make_split(1), make_split(2), COSTS, "foos", HEADS, GATES)


@pytest.fixture(autouse=True)
def quick_gates(monkeypatch):
    recipe = leenet.Recipe(alphas=4, steps=20, penalties=((1e-3, 0.0),))
    quick = functools.partial(leenet.fit, recipe=recipe)
    monkeypatch.setitem(schedulers.SCHEDULERS, "leenet", quick)


@pytest.mark.parametrize(
    ("name", "calibration", "adjusted"),
    [
        ("maxprob_opt", 0.5, {"temperature": True}),
        ("pabee", 0.0, {"ensemble": True}),
        pytest.param("leenet", 0.5, {"ensemble": True}, marks=pytest.mark.slow),
    ],
)
def test_frontiers_charge_what_the_replay_charges(
    given, name, calibration, adjusted
) -> None:
    options = {"calibration": calibration, **adjusted}
    frontier = schedulers.fit(name, given, key=jax.random.key(0), **options)
    whole = frontier.with_costs(given)
    cheaper = 0
    for m in range(0, len(frontier.member), 7):
        policy = frontier.policy(m)
        run = simulate(policy, given.val, *given.prices)
        assert whole.val_cost[m] == pytest.approx(run.mean_cost, rel=1e-9)
        if not calibration:
            assert frontier.val_cost[m] == pytest.approx(run.mean_cost, rel=1e-9)
        else:
            charges = policy.charges(*given.prices)
            np.testing.assert_allclose(frontier.held.costs[m], charges)
        cheaper += run.mean_cost < simulate(policy, given.val, COSTS).mean_cost
    # Patience looks at every exit, and so does whoever averages them.
    assert (cheaper > 0) == (name != "pabee" and "ensemble" not in adjusted)


def test_what_heads_do_not_cost_stages_may(given) -> None:
    frontier = schedulers.fit("maxprob_opt", given, key=jax.random.key(0))
    unknown = dataclasses.replace(given, head_costs=None)
    other = schedulers.fit("maxprob_opt", unknown, key=jax.random.key(0))
    budget = 3.0
    runs = [simulate(f.for_budget(budget), given.val, COSTS) for f in (frontier, other)]
    charged = simulate(frontier.for_budget(budget), given.val, COSTS, HEADS)
    assert charged.mean_cost <= budget
    assert runs[0].mean_cost > runs[1].mean_cost
