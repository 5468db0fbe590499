"""Predictive Exit's policies: what they skip, what they pay, what labels they see."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import predictive
from eenet_jax.schedulers.forecast_training import path_scores

NUM_EXITS, NUM, CLASSES = 7, 400, 5
KEY = jax.random.key(0)
RULES = ("published", "every", "placed")
BUDGETS = (4.0, 8.0, 14.0)


@functools.cache
def _predictions() -> Predictions:
    """Exits that see the class ever better: the easier the sample, the earlier."""
    rng = np.random.default_rng(0)

    def draw():
        labels = rng.integers(CLASSES, size=NUM).astype(np.int32)
        ease = rng.exponential(size=NUM)
        signal = ease * np.linspace(0.5, 5, NUM_EXITS)[:, None]
        noise = np.cumsum(rng.standard_normal((NUM_EXITS, NUM, CLASSES)), axis=0)
        logits = noise / np.sqrt(np.arange(1, NUM_EXITS + 1))[:, None, None]
        logits[:, np.arange(NUM), labels] += signal
        return Split(logits.astype(np.float32), labels)

    heads = np.array([2.0, 1, 1, 1, 0.5, 0.5, 0])
    costs = np.cumsum(heads) + 2 * np.arange(1, NUM_EXITS + 1)
    val = draw()
    tau = predictive.activation_means(val.logits)
    return Predictions(
        val, draw(), costs, head_costs=heads, activation_mean=tau, cost_unit="mflops"
    )


@functools.cache
def _fitted(variant: str) -> schedulers.Frontier:
    return schedulers.fit(f"predictive_exit:{variant}", _predictions(), key=KEY)


@pytest.mark.parametrize("variant", ["learned", *RULES])
def test_budgets_are_kept_and_costs_are_those_of_the_replay(variant, tmp_path):
    given, frontier = _predictions(), _fitted(variant)
    frontier.save(tmp_path / "fit.npz")
    read = schedulers.load(tmp_path / "fit.npz")
    spent = []
    for budget in BUDGETS:
        policy = read.for_budget(budget)
        decided = simulate(policy, given.val, *given.prices)
        assert decided.mean_cost <= budget
        spent.append(decided.mean_cost)
        asked = decided.scores[: NUM_EXITS - 1] > -np.inf
        before = np.arange(NUM_EXITS - 1)[:, None] <= decided.exit_index
        backbone = 2.0 * np.arange(1, NUM_EXITS + 1)
        heads = given.head_costs[:-1] @ (asked & before)
        np.testing.assert_allclose(decided.cost, backbone[decided.exit_index] + heads)
        left = decided.exit_index < NUM_EXITS - 1
        assert asked[decided.exit_index[left], left].all()
    assert spent == sorted(spent) and spent[0] < spent[-1]
    shared = {"start", "following", "bounds", "weights"} & policy.params.keys()
    assert shared  # nothing of the labels


def test_the_ends_of_a_frontier():
    given = _predictions()
    for variant in ("learned", "every"):
        frontier = _fitted(variant)
        first, last = (
            simulate(frontier.policy(m), given.test, *given.prices) for m in (0, 1)
        )
        assert set(first.exit_index) == {0} and set(first.cost) == {4.0}
        # No head but its own is run on the way to the end.
        assert set(last.exit_index) == {NUM_EXITS - 1} and set(last.cost) == {14.0}


def test_heads_that_cost_are_skipped():
    given = _predictions()
    decided = simulate(_fitted("learned").for_budget(8.0), given.test, *given.prices)
    asked = (decided.scores[:-1] > -np.inf).mean()
    assert asked < 0.6
    free = dataclasses.replace(
        given, costs=given.split_costs[0], head_costs=np.zeros(NUM_EXITS)
    )
    frontier = schedulers.fit("predictive_exit", free, key=KEY)
    decided = simulate(frontier.for_budget(8.0), free.test, *free.prices)
    assert (decided.scores[:-1] > -np.inf).mean() > asked


def test_learned_is_the_most_accurate_at_equal_cost():
    given = _predictions()
    accuracy = {}
    for variant in ("learned", "every"):
        policies = map(_fitted(variant).for_budget, np.linspace(4.5, 9, 7))
        found = [simulate(policy, given.test, *given.prices) for policy in policies]
        accuracy[variant] = np.mean([f.accuracy(given.test.labels) for f in found])
    assert accuracy["learned"] > accuracy["every"]


def _permuted(split: Split, order: np.ndarray) -> Split:
    return Split(split.logits[..., order], np.argsort(order)[split.labels])


def test_the_order_of_classes_changes_the_published_forecast_only():
    given = _predictions()
    order = np.random.default_rng(3).permutation(CLASSES)
    other = dataclasses.replace(
        given, val=_permuted(given.val, order), test=_permuted(given.test, order)
    )
    taken = {}
    for variant in ("learned", "published"):
        exits = []
        for seen in (given, other):
            frontier = schedulers.fit(f"predictive_exit:{variant}", seen, key=KEY)
            policies = map(frontier.for_budget, BUDGETS)
            replayed = [simulate(p, seen.test, *seen.prices) for p in policies]
            exits.append(np.stack([r.exit_index for r in replayed]))
        taken[variant] = (exits[0] != exits[1]).mean()
    assert taken["learned"] == 0 and taken["published"] > 0


@pytest.mark.slow
def test_guarantees_hold_for_paths(tmp_path):
    given = _predictions()
    frontier = schedulers.fit("predictive_exit", given, key=KEY, calibration=0.5)
    policy = frontier.for_budget(9.0, confidence=0.9)
    assert simulate(policy, given.test, *given.prices).mean_cost <= 9.0
    held = frontier.held
    assert held.spent.shape == held.exits.shape and held.spent.min() >= held.costs.min()
    frontier.save(tmp_path / "fit.npz")
    read = schedulers.load(tmp_path / "fit.npz").with_costs(given)
    policy = read.for_budget(9.0, confidence=0.9)
    assert simulate(policy, given.test, *given.prices).mean_cost <= 9.0
    dearer = given.with_costs(2 * given.costs, "x", 2 * given.head_costs)
    with pytest.raises(UserError, match="needs samples"):
        read.with_costs(dearer).for_budget(18.0, confidence=0.9)


def test_exits_earn_their_place_by_the_published_rule():
    # (0.5 - s_l) y_{l+1} - (1 - s_l) h_l - 0.5 y_l
    staying = np.array([[0.1, 0.1, 0.1], [0.1, 0.3, 0.9]])
    found = predictive.earning_exits(staying, np.array([1.0, 4, 4, 9]), np.ones(3))
    # 1.6 - 0.9 - 0.5; 1.6 - 0.9 - 2; 3.6 - 0.9 - 2; and 0.8 - 0.7 - 2; -3.6 - 0.1 - 2
    np.testing.assert_array_equal(found, [[1, 0, 1], [1, 0, 0]])


def test_scores_on_a_path():
    scores = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    targets = np.array([[2, 3], [2, 2], [3, 3]])
    found = path_scores(scores, targets, 0)
    np.testing.assert_array_equal(
        found, [[1, 2], [-np.inf, -np.inf], [5, -np.inf], [0, 0]]
    )


def test_rules_need_the_scale_of_the_logits():
    given = _predictions()
    lacking = dataclasses.replace(given, activation_mean=None)
    for variant in RULES:
        with pytest.raises(UserError, match="needs activation_mean"):
            schedulers.fit(f"predictive_exit:{variant}", lacking, key=KEY)
    untrained = given.activation_mean * (np.arange(NUM_EXITS) != 2)
    untrained = dataclasses.replace(given, activation_mean=untrained)
    with pytest.raises(UserError, match=r"activation_mean\[2\]=0 must be positive"):
        schedulers.fit("predictive_exit:every", untrained, key=KEY)


@pytest.mark.parametrize("variant", ["published", "every"])
def test_beta_and_start_may_be_given(variant):
    predictions = _predictions()
    tau = predictions.activation_mean
    name = f"predictive_exit:{variant}+beta=1.5+start=2"
    frontier = schedulers.fit(name, predictions, key=KEY)
    (cost,) = np.unique(frontier.val_cost[2:])  # beside the two ends
    policy = frontier.for_budget(cost)
    bounds = predictive.exit_bounds(tau[:-1], [1.5])
    np.testing.assert_array_equal(policy.thresholds[:-1], bounds[0])
    found = simulate(policy, predictions.val, *predictions.prices)
    assert found.exit_index.min() >= 1  # start counts from 1
    free = schedulers.fit(f"predictive_exit:{variant}", predictions, key=KEY)
    assert len(free.val_cost) > len(frontier.val_cost)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("published+beta=0", r"beta\[0\]=0 must be positive"),
        ("every+start=9", "start=9 is no exit to begin with; choose from 1 to"),
        ("published+gamma=1", "has no 'gamma'; choose from beta, start"),
        ("published+beta=x", "beta=x must be a number of at least 0"),
        ("placed+start=2", "has no 'start'; choose from beta$"),
        ("learned+beta=2", "has no 'beta'; choose from prices, lowest"),
    ],
)
def test_rules_that_cannot_be_are_refused(variant, message):
    with pytest.raises(UserError, match=message):
        schedulers.fit(f"predictive_exit:{variant}", _predictions(), key=KEY)
