"""Policies with adjusted logits: stepped, replayed, fitted and saved alike."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import Adjustment, Policy, load_policy, save_policy
from eenet_jax.schedulers.adjust import adjust_split, fit_temperature
from eenet_jax.schedulers.evidence import Evidence
from eenet_jax.schedulers.folds import draw_share
from eenet_jax.schedulers.scorers import SCORERS

QUICK_COMPILES = True  # see conftest.py

K, N, C = 3, 120, 4
COSTS = np.array([1.0, 2.0, 4.0])
TEMPERATURE = np.array([0.5, 1.0, 3.0], np.float32)
ADJUSTMENTS = {
    "temperature": Adjustment(TEMPERATURE, False, C),
    "ensemble": Adjustment(None, True, C),
    "both": Adjustment(TEMPERATURE, True, C),
}
each = pytest.mark.parametrize("kind", ADJUSTMENTS)


def make_split(seed: int = 0, num_samples: int = N) -> Split:
    """Logits of three exits, each surer of the truth than the one before."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, num_samples)
    logits = rng.normal(size=(K, num_samples, C))
    logits[:, np.arange(num_samples), labels] += np.array([[0.5], [1.0], [1.5]])
    return Split(logits.astype(np.float32), labels.astype(np.int32))


def make_policy(kind: str, scorer: str = "max_prob") -> Policy:
    """A policy whose thresholds send some samples to each exit."""
    policy = Policy(scorer, {}, np.zeros(K, np.float32), ADJUSTMENTS[kind])
    scores = np.asarray(policy.scores(make_split().logits))
    thresholds = np.append(np.quantile(scores[:-1], 0.6, axis=1), -np.inf)
    return dataclasses.replace(policy, thresholds=thresholds.astype(np.float32))


@each
@pytest.mark.parametrize("scorer", ["max_prob", "patience"])
def test_policy_steps_as_its_outputs(kind, scorer) -> None:
    split, policy = make_split(), make_policy(kind, scorer)
    plain = dataclasses.replace(policy, adjustment=None)
    outputs = policy.outputs(split.logits)
    expected = plain.scores(outputs)
    trail = policy.init_trail(N)
    for k in range(K):
        answer = policy.output(k, split.logits[k], trail)
        np.testing.assert_allclose(answer, outputs[k], rtol=1e-5, atol=1e-6)
        score, trail = policy.step(k, Evidence(split.logits[k]), trail)
        np.testing.assert_allclose(score, expected[k], rtol=1e-5)


@each
def test_trail_keeps_shape_and_batch_axis(kind) -> None:
    policy = make_policy(kind, "patience")
    trail = jax.eval_shape(lambda: policy.init_trail(N))
    for k in range(K):

        def step(x, trail, k=k):
            return policy.step(k, Evidence(x), trail)

        _, following = jax.eval_shape(step, make_split().logits[k], trail)
        assert following == trail
        assert all(leaf.shape[0] == N for leaf in jax.tree.leaves(following))
    plain = dataclasses.replace(policy, adjustment=None)
    assert plain.init_trail(N).keys() == {"answer", "run"}


def test_features_pass_and_unread_logits_are_not_computed(monkeypatch) -> None:
    def of_features(params, k, evidence, trail):
        return evidence.features[:, 0], trail

    scorer = SCORERS["max_prob"]._replace(step=of_features)
    monkeypatch.setitem(SCORERS, "max_prob", scorer)

    def logits():
        raise AssertionError("nobody reads them")

    policy = Policy("max_prob", {}, np.zeros(K, np.float32), ADJUSTMENTS["temperature"])
    evidence = Evidence(logits, jnp.arange(6.0).reshape(3, 2))
    score, _ = policy.step(0, evidence, policy.init_trail(3))
    np.testing.assert_array_equal(score, [0, 2, 4])


@each
def test_replayed_as_decided_with_the_adjusted_answers(kind) -> None:
    split, policy = make_split(), make_policy(kind)
    decisions = simulate(policy, split, COSTS)
    decided = np.asarray(policy.decide(split.logits))
    np.testing.assert_array_equal(decisions.exit_index, decided)
    assert len(np.unique(decided)) == K
    answers = np.asarray(policy.outputs(split.logits)).argmax(-1)
    np.testing.assert_array_equal(decisions.labels, answers[decided, np.arange(N)])
    np.testing.assert_array_equal(decisions.cost, COSTS[decided])


def test_replayed_labels_are_the_ensembles() -> None:
    split, policy = make_split(), make_policy("ensemble")
    decisions = simulate(policy, split, COSTS)
    probs = np.exp(split.logits) / np.exp(split.logits).sum(-1, keepdims=True)
    for n, k in enumerate(decisions.exit_index):
        assert decisions.labels[n] == probs[: k + 1, n].mean(axis=0).argmax()
    own = split.logits.argmax(-1)[decisions.exit_index, np.arange(N)]
    assert (decisions.labels != own).any()


def test_other_numbers_of_classes_are_refused() -> None:
    split = make_split()
    fewer = Split(split.logits[..., :2], split.labels % 2)
    with pytest.raises(UserError, match="fitted for 4 classes, the predictions have 2"):
        simulate(make_policy("ensemble"), fewer, COSTS)


@each
def test_policy_saved_and_loaded(kind, tmp_path) -> None:
    split, policy = make_split(), make_policy(kind)
    save_policy(tmp_path / "policy.npz", policy)
    loaded = load_policy(tmp_path / "policy.npz")
    assert jax.tree.structure(loaded) == jax.tree.structure(policy)
    one, other = (simulate(p, split, COSTS) for p in (policy, loaded))
    np.testing.assert_array_equal(one.exit_index, other.exit_index)
    np.testing.assert_array_equal(one.labels, other.labels)


def fit(name: str = "maxprob_opt", val: Split | None = None, **options):
    """A fit and the predictions it is of."""
    given = Predictions(val or make_split(1), make_split(2), COSTS)
    return schedulers.fit(name, given, key=jax.random.key(0), **options), given


@pytest.mark.parametrize("name", ["maxprob_opt", "pabee"])
@pytest.mark.parametrize("temperature, ensemble", [(1, 0), (0, 1), (1, 1)])
def test_frontier_says_what_its_policies_do(name, temperature, ensemble) -> None:
    options = {"temperature": bool(temperature), "ensemble": bool(ensemble)}
    frontier, given = fit(name, **options)
    for m in range(0, len(frontier.member), 1 + len(frontier.member) // 20):
        decisions = simulate(frontier.policy(m), given.val, COSTS)
        assert decisions.mean_cost == pytest.approx(frontier.val_cost[m])
        accuracy = decisions.accuracy(given.val.labels)
        assert accuracy == pytest.approx(frontier.val_accuracy[m])


def test_without_options_there_is_no_adjustment() -> None:
    frontier, _ = fit()
    assert frontier.adjustment is None and frontier.policy(0).adjustment is None


@pytest.mark.slow
def test_frontier_saved_and_loaded(tmp_path) -> None:
    frontier, given = fit(temperature=True, ensemble=True, calibration=0.5)
    frontier.save(tmp_path / "new.npz")
    loaded = schedulers.load(tmp_path / "new.npz")
    assert loaded.adjustment.ensemble and loaded.adjustment.num_classes == C
    one, other = (f.for_budget(2.5) for f in (frontier, loaded))
    one, other = (simulate(p, given.test, COSTS) for p in (one, other))
    np.testing.assert_array_equal(one.exit_index, other.exit_index)
    np.testing.assert_array_equal(one.labels, other.labels)
    plain, _ = fit()
    plain.save(tmp_path / "plain.npz")
    with np.load(tmp_path / "plain.npz") as file:  # like those of earlier versions
        assert not any("adjustment" in name for name in file.files)
    assert schedulers.load(tmp_path / "plain.npz").adjustment is None


def test_held_out_rows_do_not_decide_the_temperature() -> None:
    val = make_split(1)
    rng = np.random.default_rng(schedulers.HELD_OUT_SEED)
    held, rest = draw_share(rng, N, 0.5)
    frontier, _ = fit(val=val, temperature=True, ensemble=True, calibration=0.5)
    expected = fit_temperature(val.logits[:, rest], val.labels[rest])
    np.testing.assert_array_equal(frontier.adjustment.temperature, expected)
    logits = val.logits.copy()
    logits[:, held] *= 7
    other, _ = fit(
        val=dataclasses.replace(val, logits=logits),
        temperature=True,
        ensemble=True,
        calibration=0.5,
    )
    np.testing.assert_array_equal(other.adjustment.temperature, expected)
    np.testing.assert_array_equal(other.thresholds, frontier.thresholds)


def test_held_out_answers_are_the_adjusted() -> None:
    val = make_split(1)
    frontier, _ = fit(val=val, ensemble=True, calibration=0.5)
    rng = np.random.default_rng(schedulers.HELD_OUT_SEED)
    held = val.take(draw_share(rng, N, 0.5)[0])
    expected = adjust_split(ADJUSTMENTS["ensemble"], held).correct
    np.testing.assert_array_equal(frontier.held.correct, expected)
    assert (expected != held.correct).any()
    m = len(frontier.member) // 2
    taken = simulate(frontier.policy(m), held, COSTS).exit_index
    np.testing.assert_array_equal(frontier.held.exits[m], taken)
