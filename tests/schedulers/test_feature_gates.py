"""Gates on exit features: their inputs and their score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import runtime, schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Split
from eenet_jax.schedulers import feature_gates


@pytest.fixture
def maps() -> np.ndarray:
    """[B, H, W, D], of an odd width."""
    return np.random.default_rng(0).standard_normal((4, 4, 3, 5)).astype(np.float32)


def test_inputs_by_hand(maps):
    inputs = {
        kind: feature_gates.gate_inputs(kind, maps) for kind in feature_gates.INPUTS
    }
    np.testing.assert_array_equal(
        inputs["flat"], maps.transpose(0, 3, 1, 2).reshape(4, 60)
    )
    average, largest = maps.mean((1, 2)), maps.max((1, 2))
    np.testing.assert_allclose(inputs["average"], average, atol=1e-6)
    np.testing.assert_array_equal(inputs["max"], largest)
    np.testing.assert_allclose(
        inputs["both"], np.concatenate([average, largest], 1), atol=1e-6
    )
    assert inputs["bins"].shape == (4, 20)
    np.testing.assert_allclose(
        inputs["bins"][:, 5:10], maps[:, :2, 1:].mean((1, 2)), atol=1e-6
    )


def test_numbers_are_taken_as_they_are(maps):
    pooled = maps[:, 0, 0]
    for kind in feature_gates.INPUTS:
        np.testing.assert_array_equal(feature_gates.gate_inputs(kind, pooled), pooled)
    with pytest.raises(UserError, match="gates.inputs='mean' is unknown; .*'average'"):
        feature_gates.gate_inputs("mean", maps)


def test_a_gate_lets_leave_above_one_half_strictly(maps):
    weights = [np.zeros(5, np.float32), np.ones(5, np.float32)]
    policy = schedulers.gate_policy("average", weights, np.array([0.0, 0.25]))
    logits = np.zeros((3, 4, 2), np.float32)
    scores = policy.scores(jnp.asarray(logits), (maps, maps, maps))
    expected = jax.nn.sigmoid(maps.mean((1, 2)).sum(-1) + 0.25)
    np.testing.assert_allclose(scores[1], expected, rtol=1e-5)
    assert (scores[0] == 0.5).all()
    # The replay takes inputs that were made before.
    features = (maps.mean((1, 2)),) * 2 + (np.zeros((4, 0), np.float32),)
    split = Split(logits, np.zeros(4, np.int32), features)
    found = runtime.simulate(policy, split, np.arange(1.0, 4))
    np.testing.assert_array_equal(found.exit_index, np.where(expected > 0.5, 1, 2))
    assert len(set(found.exit_index)) == 2


def test_gates_need_features():
    policy = schedulers.gate_policy("max", [np.ones(2)], np.zeros(1))
    with pytest.raises(UserError, match="reads exit features, which are not given"):
        policy.scores(jnp.zeros((2, 3, 4)))
