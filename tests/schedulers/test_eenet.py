"""EENet: the released schedulers' scores, one score chain, a sound loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eenet_jax.schedulers import Policy, eenet
from eenet_jax.schedulers.eenet import DEFAULT_RECIPE, Recipe

RELEASED = [
    "resnet56_3_cifar10", "densenet121_4_cifar100", "bert4_sst2", "bert4_ag_news",
]  # fmt: skip
K, B, C = 3, 12, 4
COSTS = np.array([0.0, 0.4, 1.0])


def make_params(hidden: int = 5) -> dict[str, np.ndarray]:
    """Parameters away from their start."""
    rng = np.random.default_rng(2)
    start = eenet.init_params(jax.random.key(0), K, C, hidden)
    params = {n: 0.4 * rng.normal(size=leaf.shape) for n, leaf in start.items()}
    params["weights"][:, C] += 4
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


@pytest.fixture(scope="module")
def logits() -> jax.Array:
    """Logits of three exits, ``[K, B, C]``."""
    rng = np.random.default_rng(0)
    return jnp.asarray(2 * rng.normal(size=(K, B, C)), jnp.float32)


@pytest.fixture(scope="module")
def correct() -> jax.Array:
    """0 or 1, ``[K, B]``; an exit is right at least once and wrong at least once."""
    rng = np.random.default_rng(1)
    return (
        jnp.asarray(rng.random((K, B)) < 0.6, jnp.float32)
        .at[:, :2]
        .set(jnp.array([[0.0, 1.0]] * K))
    )


@functools.partial(jax.jit, static_argnums=5)
def value_and_grad(params, logits, correct, costs, budget, recipe):
    arguments = logits, correct, costs, budget, recipe
    return jax.value_and_grad(eenet.loss)(params, *arguments)


@jax.jit
def scores_and_exits(policy, logits):
    return policy.scores(logits), policy.decide(logits)


@pytest.mark.parametrize("name", RELEASED)
def test_released_schedulers(name, shared) -> None:
    file = np.load(shared / "fixtures" / "eenet_released" / f"{name}.npz")
    num_exits, num_classes = int(file["num_exit"]), int(file["num_class"])
    weights = np.zeros((num_exits, num_classes + 2 + num_exits), np.float32)
    for k in range(num_exits):
        row = np.concatenate([file[f"exit{k}_q_class"], file[f"exit{k}_q_feat"]])
        weights[k, : len(row)] = row
    params = {"weights": weights, "bias": np.zeros(num_exits, np.float32)}
    thresholds = np.append(file["thresholds"][:-1], -np.inf).astype(np.float32)
    policy = Policy("eenet_linear", params, thresholds)
    log_probs = np.log(file["golden_probs"])
    scores, exits = scores_and_exits(policy, log_probs)
    np.testing.assert_allclose(scores, file["golden_q_eval"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(exits, file["golden_exit"])


def test_fitting_and_deciding_share_one_score_chain(logits) -> None:
    params = make_params()
    scores, gates = jax.jit(eenet.scores_and_gates)(params, logits)
    assert scores.shape == (K, B) and gates.shape == (K - 1, B)
    own = {name: params[name] for name in ("weights", "bias")}
    decided, _ = scores_and_exits(Policy("eenet", own, jnp.zeros(K)), logits)
    np.testing.assert_allclose(decided, scores, rtol=1e-5, atol=1e-5)


def test_scores_start_as_log_odds(logits, key) -> None:
    params = eenet.init_params(key, K, C, 5)
    start = {name: params[name] for name in ("weights", "bias")}
    policy = Policy("eenet", start, np.zeros(K, np.float32))
    scores, _ = scores_and_exits(policy, logits)
    p = np.asarray(jax.nn.softmax(logits)).astype(np.float64).max(-1)
    np.testing.assert_allclose(scores, np.log(p / (1 - p)), atol=1e-4)


def test_loss_by_hand(logits, correct) -> None:
    params = make_params()
    scores, gates = (
        np.asarray(x, np.float64)
        for x in jax.jit(eenet.scores_and_gates)(params, logits)
    )
    gate = 1 / (1 + np.exp(-gates))
    p = np.stack([gate[0], (1 - gate[0]) * gate[1], (1 - gate[0]) * (1 - gate[1])])
    q = 1 / (1 + np.exp(-scores))
    right = np.asarray(correct)
    entropy = -(right * np.log(q) + (1 - right) * np.log(1 - q))
    recipe = Recipe(score_weight=0.7, ce_weight=0.3, cost_weight=5.0, beta=0.5)
    power = q**recipe.beta
    kl = (p * np.log(p / (power / power.sum(axis=0)))).sum(axis=0).mean()
    over = (p * np.asarray(COSTS)[:, None]).sum(axis=0).mean() - 0.3
    start = np.zeros((K, C + 2 + K))
    start[:, C] = 4
    wanted = (
        0.7 * (p / p.sum(axis=1, keepdims=True) * entropy).sum() / K
        + (p * (1 - right)).sum(axis=0).mean()
        + 0.3 * kl
        + 5 * over**2
        + recipe.weight_decay * ((np.asarray(params["weights"]) - start) ** 2).sum()
    )
    value, _ = value_and_grad(params, logits, correct, COSTS, 0.3, recipe)
    assert value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_finite_gradients_at_saturated_logits(logits, correct, scale) -> None:
    value, gradient = value_and_grad(
        make_params(), scale * logits, correct, COSTS, 0.3, DEFAULT_RECIPE
    )
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("bias", [-1e3, 1e3])
def test_finite_gradients_at_saturated_gates(logits, correct, bias) -> None:
    params = {**make_params(), "b2": jnp.full(K, bias)}
    value, gradient = value_and_grad(
        params, logits, correct, COSTS, 0.3, DEFAULT_RECIPE
    )
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_gradient_check(logits, correct) -> None:
    params = make_params()
    # P is held fixed in the scores' loss, so each part is checked where it is smooth:
    # the scores with gates that do not see them, the gates without that part.
    blind = params["w1"].at[:, :, C:].set(0)
    gates = {name: params[name] for name in ("w1", "b1", "w2", "b2")}

    @jax.jit
    def of_scores(weights, bias):
        moved = {**gates, "w1": blind, "weights": weights, "bias": bias}
        return eenet.loss(moved, logits, correct, COSTS, 0.3, DEFAULT_RECIPE)

    @jax.jit
    def of_gates(gates):
        recipe = DEFAULT_RECIPE._replace(score_weight=0.0)
        return eenet.loss({**params, **gates}, logits, correct, COSTS, 0.3, recipe)

    kinds = {"order": 1, "modes": ("rev",), "atol": 2e-2, "rtol": 2e-2}
    check_grads(of_scores, (params["weights"], params["bias"]), **kinds)
    check_grads(of_gates, (gates,), **kinds)
