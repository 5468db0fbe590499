"""Confidence scores: hand values, exact zeros, saturated logits, lazy evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.errors import UserError
from eenet_jax.schedulers import evidence as evidence_lib
from eenet_jax.schedulers.evidence import Evidence

max_prob = jax.jit(evidence_lib.max_prob)
entropy_confidence = jax.jit(evidence_lib.entropy_confidence)
log_odds = jax.jit(evidence_lib.log_odds, static_argnames="limit")
SCORES = {"max_prob": max_prob, "entropy": entropy_confidence, "log_odds": log_odds}
every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
HALVES = np.log(np.array([0.5, 0.25, 0.25], np.float32))


def draw(*shape: int) -> np.ndarray:
    """Random logits."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_hand_values() -> None:
    entropy = 0.5 * np.log(2) + 0.5 * np.log(4)
    assert max_prob(HALVES) == pytest.approx(0.5, abs=1e-6)
    assert entropy_confidence(HALVES) == pytest.approx(
        1 - entropy / np.log(3), abs=1e-6
    )
    assert log_odds(HALVES) == pytest.approx(0.0, abs=1e-6)


def test_uniform_answer() -> None:
    uniform = np.zeros(4, np.float32)
    assert max_prob(uniform) == pytest.approx(0.25)
    assert entropy_confidence(uniform) == pytest.approx(0.0, abs=1e-6)
    assert log_odds(uniform) == pytest.approx(-np.log(3), abs=1e-6)


def test_certain_answer_is_finite() -> None:
    certain = np.array(
        [0, 1e4, -1e4], np.float32
    )  # the other probabilities are 0 exactly
    assert max_prob(certain) == 1
    assert entropy_confidence(certain) == 1
    assert log_odds(certain) == 20


@every_score
def test_gradients_are_finite_where_p_is_0(score) -> None:
    for logits in ([0.0, 1e4, -1e4], [0.0, 0.0, 0.0]):
        gradient = jax.grad(score)(np.array(logits, np.float32))
        assert np.isfinite(np.asarray(gradient)).all()


def test_log_odds_is_log_p_over_1_minus_p() -> None:
    logits = 3 * draw(200, 5).astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = probs.max(-1)
    odds = log_odds(logits.astype(np.float32))
    np.testing.assert_allclose(odds, np.log(p / (1 - p)), atol=1e-4)


def test_log_odds_orders_where_p_rounds_to_1() -> None:
    logits = np.array([[0, -m, -m] for m in (17.5, 18.0, 19.0)], np.float32)
    assert (np.asarray(max_prob(logits)) == 1).all()
    assert (np.diff(log_odds(logits)) > 0.4).all()


def test_log_odds_of_tied_best_classes() -> None:
    tied = np.array([[5, 5, -20]], np.float32)
    np.testing.assert_allclose(log_odds(tied), [0.0], atol=1e-5)


def test_log_odds_limit() -> None:
    assert log_odds(np.array([100.0, 0.0], np.float32), limit=7.0) == 7


@every_score
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)])
def test_leading_axes_are_kept(score, shape) -> None:
    logits = draw(*shape)
    whole = np.asarray(score(logits))
    assert whole.shape == shape[:-1]
    rows = [score(row) for row in logits.reshape(-1, 5)]
    np.testing.assert_allclose(whole.ravel(), rows, rtol=1e-5)


@every_score
def test_shifting_logits_changes_nothing(score) -> None:
    logits = draw(10, 4)
    np.testing.assert_allclose(score(logits + 8), score(logits), atol=1e-5)


def test_thunks_are_called_only_when_read() -> None:
    calls = []

    def thunk(name, value):
        return lambda: calls.append(name) or value

    logits, features = jnp.ones((2, 3)), jnp.zeros((2, 4))
    evidence = Evidence(thunk("logits", logits), thunk("features", features))
    assert calls == []
    assert evidence.features is features
    assert calls == ["features"]
    assert evidence.logits is logits
    assert calls == ["features", "logits"]


def test_absent_evidence_is_named() -> None:
    with pytest.raises(UserError, match="reads logits, which are not given"):
        _ = Evidence().logits
    with pytest.raises(UserError, match="reads exit features"):
        _ = Evidence(jnp.ones((1, 2))).features
