"""Policies that skip exits run as they are replayed, without the heads between."""

import jax
import numpy as np
import pytest
from adaptive_cases import Counted, make_network

from eenet_jax import runtime
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.queues import predict_dataset
from eenet_jax.schedulers import forecast_training
from eenet_jax.schedulers.policy import Policy

NUM_EXITS = 5
LADDERS = ((32,), *((16, 32),) * (NUM_EXITS - 1))


@pytest.fixture(scope="module")
def deep():
    return make_network(NUM_EXITS)


def _published(network) -> Policy:
    tau = np.abs(network.logits[:-1]).mean((1, 2))
    bounds = (2.2 * tau).astype(np.float32)
    params = {"bounds": bounds, "start": np.int32(1), "rounds": np.int32(8)}
    params["past_last"] = np.bool_(True)
    return Policy("forecast_published", params, np.append(bounds, -np.inf))


def _learned(network) -> Policy:
    rng = np.random.default_rng(2)
    noisy = network.logits.mean(0) + rng.gumbel(size=network.logits.shape[1:])
    split = Split(network.logits, noisy.argmax(-1).astype(np.int32))
    costs, heads = np.arange(1.0, NUM_EXITS + 1), np.full(NUM_EXITS, 0.3)
    given = Predictions(split, split, costs, head_costs=heads)
    recipe = forecast_training.Recipe(prices=12, units=4, folds=2, ridges=(10.0,))
    frontier = forecast_training.fit(given, key=jax.random.key(0), recipe=recipe)
    return frontier.for_budget(3.0)


@pytest.fixture(scope="module", params=[_published, _learned])
def policy(request, deep):
    return request.param(deep)


def _scores(policy, network) -> np.ndarray:
    return np.asarray(jax.jit(Policy.scores)(policy, network.logits))


def test_decides_as_the_replay(deep, policy):
    scores = _scores(policy, deep)
    exits = np.argmax(scores >= policy.thresholds[:, None], axis=0)
    assert len(np.unique(exits)) > 2 and (scores[:-1] == -np.inf).mean() > 0.2
    labels = deep.logits[exits, np.arange(len(exits))].argmax(-1)
    rows = np.random.default_rng(0).permutation(64)
    for part in rows.reshape(2, 32):
        found = runtime.adaptive_predict(
            deep.backbone, deep.variables, policy, deep.x[part], ladders=LADDERS
        )
        np.testing.assert_array_equal(found.exit_index, exits[part])
        np.testing.assert_array_equal(found.label, labels[part])
    batches = [(part, np.ones(32, bool), deep.x[part]) for part in rows.reshape(2, 32)]
    queued = predict_dataset(
        deep.backbone, deep.variables, policy, batches, num_samples=64
    )
    np.testing.assert_array_equal(queued.exit_index, exits[:64])
    np.testing.assert_array_equal(queued.label, labels[:64])


def test_who_must_leave_does_so_where_no_test_was_due(deep, policy):
    exits = np.argmax(_scores(policy, deep) >= policy.thresholds[:, None], axis=0)
    limit = np.arange(32) % NUM_EXITS
    found = runtime.adaptive_predict(
        deep.backbone, deep.variables, policy, deep.x[:32], latest_exit=limit,
        ladders=LADDERS,
    )  # fmt: skip
    expected = np.minimum(exits[:32], limit)
    np.testing.assert_array_equal(found.exit_index, expected)
    answers = deep.logits[expected, np.arange(32)].argmax(-1)
    np.testing.assert_array_equal(found.label, answers)


def test_heads_that_nobody_asks_are_not_run(deep):
    counted, policy = Counted(**vars(deep.backbone)), _learned(deep)
    scores = _scores(policy, deep)
    exits = np.argmax(scores >= policy.thresholds[:, None], axis=0)
    for n in range(6):
        found = runtime.adaptive_predict(
            counted, deep.variables, policy, deep.x[n : n + 1]
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        asked = np.flatnonzero(scores[: exits[n] + 1, n] > -np.inf)
        assert counted.ran == asked.tolist()
        counted.ran.clear()
