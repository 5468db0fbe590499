"""The compiled policy decides as its replay, for all batches, ladders and devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adaptive_cases import NUM, Counted, policy_of

from eenet_jax import distributed, runtime
from eenet_jax.errors import UserError
from eenet_jax.runtime import staged
from eenet_jax.schedulers.policy import Policy

NOBODY = [jnp.inf, jnp.inf, -jnp.inf]
EVERYBODY = [-jnp.inf, jnp.inf, -jnp.inf]


def replay(network, policy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exits, answers and probabilities by the logits of all exits."""
    logits = jnp.asarray(network.logits)
    exits = np.asarray(policy.decide(logits))
    outputs = np.asarray(policy.outputs(logits))[exits, np.arange(NUM)]
    return exits, outputs.argmax(-1), np.asarray(jax.nn.softmax(outputs))


def predict(network, policy, rows, **options):
    if len(rows) == 64 and "mesh" not in options:  # few sizes: few to compile
        options = {"ladders": ((64,), (16, 64), (32, 64)), **options}
    return runtime.adaptive_predict(
        network.backbone, network.variables, policy, network.x[rows], **options
    )


def check(network, policy, rows, found) -> None:
    exits, labels, probs = replay(network, policy)
    np.testing.assert_array_equal(found.exit_index, exits[rows])
    np.testing.assert_array_equal(found.label, labels[rows])
    np.testing.assert_allclose(found.probs, probs[rows], atol=1e-5)


def test_decides_as_the_replay(network, policy):
    rows = np.arange(64)
    found = predict(network, policy, rows)
    check(network, policy, rows, found)
    assert len(np.unique(found.exit_index)) > 1
    shuffled = np.random.default_rng(3).permutation(64)
    check(network, policy, shuffled, predict(network, policy, shuffled))


@pytest.mark.parametrize("size", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_small_batches(network, size):
    policy = policy_of("max_prob", network)
    for start in (0, 20, 40):
        rows = np.arange(start, start + size)
        check(network, policy, rows, predict(network, policy, rows))


@pytest.mark.parametrize("thresholds", [NOBODY, EVERYBODY])
def test_nobody_or_everybody_leaves(network, thresholds):
    policy = Policy("max_prob", {}, jnp.array(thresholds, jnp.float32))
    rows = np.arange(64)
    found = predict(network, policy, rows, ladders=((64,), (64,), (64,)))
    check(network, policy, rows, found)
    assert np.unique(found.exit_index).tolist() == [2 if thresholds is NOBODY else 0]


@pytest.mark.parametrize("scorer", ["max_prob", "patience"])
def test_heads_run_where_someone_may_leave(network, scorer):
    counted = Counted(**vars(network.backbone))
    policy = policy_of(scorer, network)
    policy = dataclasses.replace(policy, thresholds=policy.thresholds.at[1].set(np.inf))
    rows, ladders = np.arange(7), ((7,),) * 3
    run = network._replace(backbone=counted)
    found = predict(run, policy, rows, ladders=ladders)
    check(network, policy, rows, found)
    jax.effects_barrier()
    assert sorted(counted.ran) == ([0, 2] if scorer == "max_prob" else [0, 1, 2])
    counted.ran.clear()
    expected = np.minimum(found.exit_index, 1)
    limit = np.where(found.exit_index == 2, 1, 2)
    found = predict(run, policy, rows, ladders=ladders, latest_exit=limit)
    np.testing.assert_array_equal(found.exit_index, expected)
    np.testing.assert_array_equal(
        found.label, network.logits.argmax(-1)[found.exit_index, rows]
    )
    jax.effects_barrier()
    assert sorted(counted.ran) == [0, 1]


def test_each_device_gathers_its_own_samples(network):
    policy = policy_of("eenet", network)
    rows = np.arange(64)
    found = predict(network, policy, rows, mesh=distributed.data_mesh())
    check(network, policy, rows, found)
    with pytest.raises(UserError, match="batch of 63 cannot be spread over 8 devices"):
        predict(network, policy, rows[1:], mesh=distributed.data_mesh())


def test_one_program_for_all_budgets_and_limits(network):
    rows = np.arange(7)
    policy = policy_of("max_prob", network)
    ladders = staged.default_ladders(3, 7)
    program = staged.program(network.backbone, ladders, None)
    for thresholds in (NOBODY, EVERYBODY):
        other = dataclasses.replace(policy, thresholds=jnp.array(thresholds))
        predict(network, other, rows)
    for limit in (0, 1, np.array([0, 1, 2, 0, 1, 2, 0])):
        nobody = dataclasses.replace(policy, thresholds=jnp.array(NOBODY))
        found = predict(network, nobody, rows, latest_exit=limit)
        np.testing.assert_array_equal(found.exit_index, np.broadcast_to(limit, 7))
        labels = network.logits.argmax(-1)[found.exit_index, rows]
        np.testing.assert_array_equal(found.label, labels)
    # Thresholds come as float32 always.
    assert program is staged.program(network.backbone, ladders, None)
    assert program._cache_size() == 1


def test_gradients_and_vmap_are_not_needed_but_jit_is(network):
    policy = policy_of("max_prob", network)
    rows = np.arange(7)
    inside = jax.jit(
        lambda x: runtime.adaptive_predict(
            network.backbone, network.variables, policy, x
        )
    )
    check(network, policy, rows, inside(network.x[rows]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"x is shape \[2, 2, 3\]"),
        (lambda x: x[..., :1], r"reads images, .*x is shape \[7, 2, 2, 1\]"),
        (lambda x: x.astype(np.uint8), "x is uint8; .* reads float32"),
        (lambda x: {"ids": x}, "x is a mapping"),
        (
            lambda x: np.where(np.arange(7)[:, None, None, None] == 3, np.nan, x),
            "in 1 ",
        ),
        (lambda x: jnp.asarray(x).at[4, 0, 0, 0].set(jnp.inf), "first in sample 4"),
    ],
)
def test_wrong_inputs_are_refused(network, change, message):
    policy = policy_of("max_prob", network)
    x = change(network.x[:7])
    with pytest.raises(UserError, match=message):
        runtime.adaptive_predict(network.backbone, network.variables, policy, x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latest_exit": 3}, "latest_exit=3 is no exit; .* 0 to 2"),
        ({"latest_exit": -1}, "latest_exit=-1 is no exit"),
        ({"latest_exit": 1.0}, "latest_exit is float64"),
        ({"latest_exit": np.zeros(3, int)}, r"shape \(3,\); .* of the 7 samples"),
        ({"ladders": ((7,), (7,))}, "ladders has 2 entries, the network 3"),
        (
            {"ladders": ((7,), (7,), (3, 2, 7))},
            r"ladders\[2\]=\(3, 2, 7\) must increase",
        ),
        ({"ladders": ((7,), (4,), (7,))}, r"ladders\[1\]=\(4,\) must .* device, 7"),
    ],
)
def test_wrong_options_are_refused(network, options, message):
    policy = policy_of("max_prob", network)
    with pytest.raises(UserError, match=message):
        predict(network, policy, np.arange(7), **options)


def test_policies_of_other_networks_are_refused(network):
    two = Policy("max_prob", {}, jnp.array([0.5, -jnp.inf]))
    with pytest.raises(UserError, match="2 exits, the network 'toy' 3"):
        predict(network, two, np.arange(7))
    weights = {"weights": jnp.zeros((3, 15)), "bias": jnp.zeros(3)}
    other = Policy("eenet", weights, jnp.array(NOBODY))
    with pytest.raises(UserError, match="fitted for 10 classes, the network .* has 4"):
        predict(network, other, np.arange(7))


@pytest.mark.parametrize("scorer", ["max_prob", "eenet"])
@pytest.mark.parametrize("tile", [16, 8, 5])
def test_stages_in_tiles(network, scorer, tile):
    rows = np.random.default_rng(4).permutation(NUM)[:16]
    policy = policy_of(scorer, network)
    counted = Counted(**vars(network.backbone))
    run = network._replace(backbone=counted)
    found = predict(run, policy, rows, ladders=((16,), tile, tile))
    check(network, policy, rows, found)
    jax.effects_barrier()
    left = np.bincount(found.exit_index, minlength=3)
    there = 16 - np.append(0, np.cumsum(left)[:-1])
    trips = [counted.ran.count(k) for k in range(3)]
    assert trips == [1, *(-(-n // tile) for n in there[1:])]
    counted.ran.clear()
    none_stay = dataclasses.replace(
        policy, thresholds=policy.thresholds.at[0].set(-1e9)
    )
    predict(run, none_stay, rows, ladders=((16,), tile, tile))
    jax.effects_barrier()
    assert counted.ran == [0]
    with pytest.raises(UserError, match=r"ladders\[1\]=17 must be a tile of 1 to"):
        predict(network, policy, rows, ladders=((16,), 17, 8))


def test_many_exits_run_in_tiles():
    assert staged.default_ladders(9, 20) == ((20,), *(3,) * 8)
    assert staged.default_ladders(8, 20)[1] == (3, 5, 8, 10, 13, 15, 18, 20)
