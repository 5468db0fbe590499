"""The frontier of every scheduler: budgets are kept, spent, and monotone."""

import functools

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import Frontier, eenet, lagrangian, leenet

QUICK_COMPILES = True  # see conftest.py

QUICK = {
    "leenet": functools.partial(
        leenet.fit, recipe=leenet.Recipe(alphas=4, steps=20, penalties=((1e-3, 0.0),))
    ),
    "eenet": functools.partial(eenet.fit, recipe=eenet.Recipe(restarts=2, steps=20)),
    "lagrangian": functools.partial(
        lagrangian.fit,
        recipe=lagrangian.Recipe(prices=8, units=16, folds=3, ridges=(10.0, 100.0)),
    ),
}
KINDS = ["plain", "ties", "saturated", "small", "absent", "worse"]
# Of other sizes than the rest, so it is compiled apart.
MARKED = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind == "small" else [])
    for kind in KINDS
]
pytestmark = pytest.mark.parametrize("name", schedulers.SCHEDULERS)


def make_split(kind: str, seed: int) -> Split:
    """Synthetic logits of the kind asked for."""
    small = kind == "small"
    num_exits, num_samples, num_classes = (2, 50, 2) if small else (3, 180, 4)
    rng = np.random.default_rng(seed)
    # "absent": a class that never occurs
    labels = rng.integers(0, num_classes - (kind == "absent"), num_samples)
    gain = np.linspace(0.5, 2.5, num_exits)
    if kind == "worse":
        gain[-1] = 0.3  # the last exit is the worst
    logits = rng.normal(size=(num_exits, num_samples, num_classes))
    logits[:, np.arange(num_samples), labels] += gain[:, None]
    if kind == "saturated":
        logits *= 60
    if kind == "ties":
        logits = logits.round()
    clear = np.sort(logits)[..., -2:]  # what gates may read
    features = np.concatenate([clear, rng.normal(size=(*clear.shape[:2], 3))], axis=2)
    return Split(
        logits.astype(np.float32),
        labels.astype(np.int32),
        tuple(features.astype(np.float32)),
    )


@functools.cache
def make_predictions(kind: str) -> Predictions:
    val, test = make_split(kind, 1), make_split(kind, 2)
    costs = np.array([1.0, 2.0, 3.5])[: len(val.logits)]
    return Predictions(val, test, costs, "foos")


@functools.cache
def fit(name: str, kind: str, seed: int = 0, again: int = 0) -> Frontier:
    """Fits a scheduler, with a quick recipe where it has one."""
    del again  # another call is another fit
    predictions = make_predictions(kind)
    budgets = np.linspace(*predictions.costs[[0, -1]], 5)
    function = QUICK.get(name, schedulers.SCHEDULERS[name])
    return function(predictions, budgets=budgets, key=jax.random.key(seed))


@pytest.mark.parametrize("kind", MARKED)
def test_budgets_are_kept_and_costs_do_not_fall(name, kind) -> None:
    predictions, frontier = make_predictions(kind), fit(name, kind)
    costs, before = predictions.costs, 0.0
    for budget in np.linspace(costs[0], 1.1 * costs[-1], 16):
        policy = frontier.for_budget(budget)
        decisions = simulate(policy, predictions.val, costs)
        assert decisions.mean_cost <= budget * (1 + 1e-9)
        assert decisions.mean_cost >= before - 1e-9
        assert decisions.exit_fraction.sum() == pytest.approx(1)
        assert np.asarray(policy.thresholds)[-1] == -np.inf
        before = decisions.mean_cost


@pytest.mark.parametrize("kind", MARKED)
def test_candidates_do_what_the_frontier_says(name, kind) -> None:
    predictions, frontier = make_predictions(kind), fit(name, kind)
    rng = np.random.default_rng(0)
    for m in rng.choice(len(frontier.member), 5):
        decisions = simulate(frontier.policy(m), predictions.val, predictions.costs)
        assert decisions.mean_cost == pytest.approx(frontier.val_cost[m], rel=1e-9)
        # These three count it on held-out folds.
        if name not in ("lagrangian", "leenet", "predictive_exit"):
            accuracy = decisions.accuracy(predictions.val.labels)
            assert accuracy == pytest.approx(frontier.val_accuracy[m])


@pytest.mark.parametrize("kind", MARKED)
def test_a_budget_above_all_gets_the_most_accurate(name, kind) -> None:
    frontier = fit(name, kind)
    policy = frontier.for_budget(1e9)
    best = np.flatnonzero(frontier.val_accuracy == frontier.val_accuracy.max())
    dearest = best[frontier.val_cost[best] == frontier.val_cost[best].max()]
    found = [np.array_equal(frontier.thresholds[m], policy.thresholds) for m in dearest]
    assert any(found)


@pytest.mark.parametrize("kind", ["plain", "saturated", "absent"])
def test_no_less_accurate_than_the_first_exit(name, kind) -> None:
    predictions, frontier = make_predictions(kind), fit(name, kind)
    middle = frontier.for_budget(predictions.costs.mean())
    decisions = simulate(middle, predictions.test, predictions.costs)
    first = predictions.test.correct[0].mean()
    assert decisions.accuracy(predictions.test.labels) >= first


def test_one_seed_gives_one_frontier(name) -> None:
    one, same = fit(name, "plain"), fit(name, "plain", again=1)
    assert one is not same
    np.testing.assert_array_equal(one.thresholds, same.thresholds)
    np.testing.assert_array_equal(one.val_cost, same.val_cost)
    for group in ("shared", "params"):
        leaves, others = getattr(one, group), getattr(same, group)
        assert leaves.keys() == others.keys()
        for key, leaf in leaves.items():
            np.testing.assert_array_equal(leaf, others[key])
    if name in QUICK:  # those that draw random numbers
        other = fit(name, "plain", seed=1)
        assert not np.array_equal(one.params["bias"], other.params["bias"])


def test_path_rises_and_ends_at_the_peak(name) -> None:
    frontier = fit(name, "plain")
    cost, accuracy = (
        values[frontier.path] for values in (frontier.val_cost, frontier.val_accuracy)
    )
    assert (np.diff(cost) >= 0).all()
    assert cost[0] == 1
    assert accuracy[-1] == frontier.val_accuracy.max()


def test_a_budget_below_the_cheapest_names_it(name) -> None:
    with pytest.raises(UserError, match=r"budget=0.99 foos is below.* cost, 1 \("):
        fit(name, "plain").for_budget(0.99)


def test_the_cheapest_budget_is_the_first_exit(name) -> None:
    predictions = make_predictions("plain")
    policy = fit(name, "plain").for_budget(1.0)
    decisions = simulate(policy, predictions.test, predictions.costs)
    assert not decisions.exit_index.any()


def test_saved_and_loaded(name, tmp_path) -> None:
    predictions, frontier = make_predictions("plain"), fit(name, "plain")
    frontier.save(tmp_path / "new" / "frontier.npz")
    loaded = Frontier.load(tmp_path / "new" / "frontier.npz")
    assert (loaded.cost_unit, loaded.num_samples) == ("foos", 180)
    for budget in (1.0, 1.7, 2.6, 9.0):
        one, other = (f.for_budget(budget) for f in (frontier, loaded))
        one, other = (
            simulate(p, predictions.test, predictions.costs) for p in (one, other)
        )
        np.testing.assert_array_equal(one.exit_index, other.exit_index)


def test_file_that_holds_no_frontier(name, tmp_path) -> None:
    schedulers.save_policy(tmp_path / "p.npz", fit(name, "plain").for_budget(2))
    with pytest.raises(UserError, match="p.npz holds no frontier: .*'val_cost'"):
        Frontier.load(tmp_path / "p.npz")


def test_confidence_needs_held_out_samples(name) -> None:
    with pytest.raises(UserError, match="0.95 needs samples.* not fitted"):
        fit(name, "plain").for_budget(2, confidence=0.95)
    with pytest.raises(UserError, match="--confidence=1.5 must be in"):
        fit(name, "plain").for_budget(2, confidence=1.5)


def test_close_names_are_suggested(name, key) -> None:
    with pytest.raises(UserError, match=f"is unknown.*Did you mean '{name}'"):
        schedulers.fit(name + "s", make_predictions("plain"), key=key)
