"""Queued stages decide as the replay, in the given order, whatever the batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_cases import NUM, policy_of

from eenet_jax.errors import UserError
from eenet_jax.runtime import queues
from eenet_jax.runtime.queues import Queues, predict_dataset
from eenet_jax.schedulers.policy import Policy


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
    few = Queues(network.backbone, network.variables, policy, NUM, keep_logits=False)
    for batch in batches(network.x, 16):
        few.add(*batch)
    few.flush()
    np.testing.assert_array_equal(few.exit_index, exits)


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


def test_queues_do_not_overflow(network):
    # 10 of the first batch wait for the last stage, then 12 more, then 8 in the end.
    nobody = Policy("max_prob", {}, jnp.array([jnp.inf, jnp.inf, -jnp.inf]))
    limits = np.full(40, 2)
    limits[[0, 1, 2, 3, 4, 5, 16, 17, 18, 19]] = 1
    given = [
        (np.arange(start, start + 16), np.arange(16) < count, network.x[start:][:16])
        for start, count in ((0, 16), (16, 12), (28, 12))
    ]
    found = predict_dataset(
        network.backbone,
        network.variables,
        nobody,
        given,
        num_samples=40,
        latest_exit=limits,
    )
    np.testing.assert_array_equal(found.exit_index, limits)
    labels = network.logits.argmax(-1)[limits, np.arange(40)]
    np.testing.assert_array_equal(found.label, labels)


def test_limits_of_single_samples(network):
    nobody = Policy("max_prob", {}, jnp.array([jnp.inf, jnp.inf, -jnp.inf]))
    limits = np.arange(NUM) % 3
    given = list(batches(network.x, 16))
    options = {"num_samples": NUM, "latest_exit": limits}
    found = predict_dataset(
        network.backbone, network.variables, nobody, given, **options
    )
    np.testing.assert_array_equal(found.exit_index, limits)
    options["latest_exit"] = 3
    with pytest.raises(UserError, match="latest_exit=3 is no exit"):
        predict_dataset(network.backbone, network.variables, nobody, given, **options)


def test_two_batches_become_one_that_is_full_and_the_rest():
    rng = np.random.default_rng(0)
    for shares in itertools.product((0.1, 0.5, 0.9), repeat=2):
        first = batch_of(rng.random(16) < shares[0], 0)
        second = batch_of(rng.random(16) < shares[1], 16)
        before = waiting(first) | waiting(second)
        batch, rest = queues._fill(*sorted((first, second), key=queues._Batch.count))
        found = waiting(batch)
        if rest is not None:
            assert batch.there.all()
            assert not found & waiting(rest)
            found |= waiting(rest)
        assert found == before


def test_rows_move_alike_one_by_one_and_at_once():
    rng = np.random.default_rng(0)
    into = {"x": rng.normal(size=(6, 2)), "y": np.arange(6)}
    other = {"x": rng.normal(size=(6, 2)), "y": np.arange(10, 16)}
    target, source = np.array([5, 0, 2, 1, 3, 4]), np.array([1, 4, 0, 2, 3, 5])
    for count in (0, 2, 6):
        expected = {name: value.copy() for name, value in into.items()}
        for name in into:
            expected[name][target[:count]] = other[name][source[:count]]
        for move in (queues.move_in_turn, queues.move_at_once):
            found = jax.jit(move)(into, other, target, source, count)
            jax.tree.map(np.testing.assert_allclose, found, expected)


def batch_of(there, start):
    """Samples whose carry says which they are."""
    rows = np.arange(start, start + len(there))
    return queues._Batch({"x": jnp.asarray(rows)}, rows, there)


def waiting(batch):
    """Returns who is there, by the carry, which must agree with the host's rows."""
    there = np.flatnonzero(batch.there)
    np.testing.assert_array_equal(
        np.asarray(batch.samples["x"])[there], batch.rows[there]
    )
    return set(batch.rows[there].tolist())
