"""Gates on features run before the head, which answers for those who leave only."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_cases import NUM
from bundle_cases import INPUTS, LADDERS

from eenet_jax import distributed, runtime, schedulers
from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError
from eenet_jax.predictions import Split
from eenet_jax.runtime import queues
from eenet_jax.runtime.bundle import load_bundle
from eenet_jax.runtime.bundle_writer import export_bundle
from eenet_jax.schedulers.adjust import Adjustment


@pytest.fixture(scope="module")
def features(network) -> list[np.ndarray]:
    """What the toy network's exits offer to gates."""
    found, carry = [], network.backbone.stem(network.variables, network.x)
    for k in range(3):
        carry = network.backbone.stage(k, network.variables, carry)
        exit_k = network.backbone.exit_features(k, network.variables, carry)
        found.append(np.asarray(exit_k))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Counted(Backbone):
    """Notes in ``ran`` which heads run, and for how many places."""

    ran: list = dataclasses.field(default_factory=list)

    def head(self, k, variables, carry):
        places = len(carry["x"])
        jax.debug.callback(lambda: self.ran.append((k, places)))
        return super().head(k, variables, carry)


def gates(features, shares: tuple[float, float]) -> schedulers.Policy:
    """Gates that let these shares of all samples leave."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(f.shape[1]).astype(np.float32) for f in features[:2]]
    sums = (np.sort(f @ w) for f, w in zip(features[:2], weights, strict=True))
    cuts = [np.append(s, s[-1] + 1)[::-1][round(share * NUM)] + 1e-3
            for s, share in zip(sums, shares, strict=True)]  # fmt: skip
    return schedulers.gate_policy("flat", weights, -np.array(cuts, np.float32))


@pytest.mark.parametrize("shares", [(0.2, 0.5), (0.0, 0.0), (1.0, 0.0)])
def test_decides_as_the_replay(network, features, shares):
    policy = gates(features, shares)
    split = Split(network.logits, np.zeros(NUM, np.int32), tuple(features))
    expected = runtime.simulate(policy, split, np.arange(3.0))
    rows = np.random.default_rng(1).permutation(NUM)[:64]
    ladders = ((64,), (32, 64), (32, 64))
    counted = Counted(**vars(network.backbone))
    found = runtime.adaptive_predict(
        counted, network.variables, policy, network.x[rows], ladders=ladders
    )
    np.testing.assert_array_equal(found.exit_index, expected.exit_index[rows])
    np.testing.assert_array_equal(found.label, expected.labels[rows])
    jax.effects_barrier()
    counts = np.bincount(expected.exit_index[rows], minlength=3)
    assert {k for k, _ in counted.ran} == set(np.flatnonzero(counts))
    of_first = [size for k, size in counted.ran if k == 0]
    assert of_first == [16] * -(-counts[0] // 16)  # as few quarters as are enough


def test_tempered_and_on_many_devices(network, features):
    policy = dataclasses.replace(
        gates(features, (0.2, 0.5)),
        adjustment=Adjustment(jnp.array([1.5, 0.8, 1.2]), False, 4),
    )
    split = Split(network.logits, np.zeros(NUM, np.int32), tuple(features))
    expected = runtime.simulate(policy, split, np.arange(3.0))
    found = runtime.adaptive_predict(
        *(network.backbone, network.variables, policy, network.x[:64]),
        mesh=distributed.data_mesh(),
    )
    np.testing.assert_array_equal(found.exit_index, expected.exit_index[:64])
    answers = np.asarray(policy.outputs(jnp.asarray(network.logits)))
    answers = answers[expected.exit_index, np.arange(NUM)][:64]
    np.testing.assert_allclose(found.probs, jax.nn.softmax(answers), atol=1e-5)


@pytest.mark.slow
def test_an_exported_bundle(network, features, tmp_path):
    policy = gates(features, (0.2, 0.5))
    parts = network.backbone, network.variables, policy
    export_bundle(
        *(*parts, tmp_path / "bundle"),
        inputs=INPUTS,
        batch_sizes=[8],
        ladders=LADDERS,
        platforms=["cpu"],
    )
    found = load_bundle(tmp_path / "bundle").predict(network.x)
    split = Split(network.logits, np.zeros(NUM, np.int32), tuple(features))
    expected = runtime.simulate(policy, split, np.arange(3.0))
    np.testing.assert_array_equal(found.exit_index, expected.exit_index)
    np.testing.assert_array_equal(found.label, expected.labels)


def test_features_of_another_size_are_refused(network, features):
    policy = schedulers.gate_policy("flat", [np.ones(3), np.ones(8)], np.zeros(2))
    with pytest.raises(UserError, match="gate 0 reads 3 numbers, the exit offers 8"):
        runtime.adaptive_predict(
            network.backbone, network.variables, policy, network.x[:8]
        )


def test_a_data_set_and_hard_limits(network, features):
    policy = gates(features, (0.2, 0.5))
    split = Split(network.logits, np.zeros(NUM, np.int32), tuple(features))
    expected = runtime.simulate(policy, split, np.arange(3.0)).exit_index
    limits = np.random.default_rng(2).integers(0, 3, NUM)
    rows = np.arange(NUM).reshape(7, 10)
    batches = [(part, np.ones(10, bool), network.x[part]) for part in rows]
    found = queues.predict_dataset(
        *(network.backbone, network.variables, policy, batches),
        num_samples=NUM,
        latest_exit=limits,
    )
    exits = np.minimum(expected, limits)
    np.testing.assert_array_equal(found.exit_index, exits)
    answers = network.logits.argmax(-1)[exits, np.arange(NUM)]
    np.testing.assert_array_equal(found.label, answers)


def test_gates_and_the_heads_of_exits_taken_are_charged(features):
    policy = gates(features, (0.2, 0.5))
    costs, heads = np.array([1.0, 2.0, 4.0]), np.array([0.3, 0.4, 0.5])
    passed = np.array([0.01, 0.02, 0.0])
    found = policy.charges(costs, heads, passed)
    np.testing.assert_allclose(found, [1.01, 1.73, 3.33])
    never = dataclasses.replace(policy, thresholds=np.array([np.inf, 0.5, -np.inf]))
    np.testing.assert_allclose(never.charges(costs, heads, passed), [1.0, 1.72, 3.32])
    assert policy.charges(costs).tolist() == costs.tolist()
