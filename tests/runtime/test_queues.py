"""Queued stages decide as the replay, in the given order, whatever the batches."""

import jax.numpy as jnp
import numpy as np
from adaptive_cases import NUM, policy_of

from eenet_jax.runtime.queues import predict_dataset


def batches(x, size):
    for start in range(0, NUM, size):
        rows = np.arange(start, start + size)
        inside = np.minimum(rows, NUM - 1)
        yield inside, rows < NUM, x[inside]


def test_decides_as_the_replay(network, policy):
    found = predict_dataset(
        network.backbone,
        network.variables,
        policy,
        batches(network.x, 16),
        num_samples=NUM,
    )
    logits = jnp.asarray(network.logits)
    exits = np.asarray(policy.decide(logits))
    labels = np.asarray(policy.outputs(logits)).argmax(-1)[exits, np.arange(NUM)]
    np.testing.assert_array_equal(found.exit_index, exits)
    np.testing.assert_array_equal(found.label, labels)
    np.testing.assert_allclose(found.probs.sum(-1), 1, rtol=1e-5)


def test_queues_are_emptied_where_the_shape_changes(network):
    policy = policy_of("eenet", network)
    half = NUM // 2
    wide = np.pad(network.x[half:], ((0, 0), (0, 4), (0, 0), (0, 0)))
    rows = np.arange(half)
    found = predict_dataset(
        network.backbone,
        network.variables,
        policy,
        [
            (rows, np.ones(half, bool), network.x[:half]),
            (rows + half, np.ones(half, bool), wide),
        ],
        num_samples=NUM,
        latest_exit=1,
    )
    assert found.exit_index.max() == 1
    exits = np.minimum(policy.decide(jnp.asarray(network.logits[:, :half])), 1)
    np.testing.assert_array_equal(found.exit_index[:half], exits)
