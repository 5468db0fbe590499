"""EENet: the released schedulers' scores, one score chain, a sound loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import Policy, eenet, eenet_model, eenet_published
from eenet_jax.schedulers.eenet_model import DEFAULT_RECIPE, Recipe
from eenet_jax.schedulers.scorers import linear_inputs, logit_inputs

RELEASED = [
    "resnet56_3_cifar10", "densenet121_4_cifar100", "bert4_sst2", "bert4_ag_news",
]  # fmt: skip
K, B, C = 3, 12, 4
COSTS = np.array([0.0, 0.4, 1.0])


def make_params(hidden: int = 5) -> dict[str, np.ndarray]:
    """Parameters away from their start."""
    rng = np.random.default_rng(2)
    start = {
        "weights": eenet_model.start_weights(K, C),
        "bias": np.zeros(K),
        **eenet_model.init_assignment(rng, K, C, hidden),
    }
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
    start = jnp.asarray(eenet_model.start_weights(K, C))
    arguments = logit_inputs(logits), correct, costs, budget, recipe, start
    return jax.value_and_grad(eenet_model.loss)(params, *arguments)


@jax.jit
def scores_and_exits(policy, logits):
    return policy.scores(logits), policy.decide(logits)


@pytest.mark.parametrize("name", RELEASED)
def test_released_schedulers(name, shared) -> None:
    file = np.load(shared / "fixtures" / "eenet_released" / f"{name}.npz")
    path = shared / "fixtures" / "eenet_released" / f"{name}.npz"
    policy = schedulers.load(path)
    log_probs = np.log(file["golden_probs"])
    scores, exits = scores_and_exits(policy, log_probs)
    np.testing.assert_allclose(scores, file["golden_q_eval"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(exits, file["golden_exit"])


def test_fitting_and_deciding_share_one_score_chain(logits) -> None:
    params = make_params()
    inputs = logit_inputs(logits)
    scores, gates = jax.jit(eenet_model.scores_and_gates)(params, inputs)
    assert scores.shape == (K, B) and gates.shape == (K - 1, B)
    own = {name: params[name] for name in ("weights", "bias")}
    decided, _ = scores_and_exits(Policy("eenet", own, jnp.zeros(K)), logits)
    np.testing.assert_allclose(decided, scores, rtol=1e-5, atol=1e-5)


def test_scores_start_as_log_odds(logits) -> None:
    start = {"weights": eenet_model.start_weights(K, C), "bias": np.zeros(K)}
    policy = Policy("eenet", start, np.zeros(K, np.float32))
    scores, _ = scores_and_exits(policy, logits)
    p = np.asarray(jax.nn.softmax(logits)).astype(np.float64).max(-1)
    np.testing.assert_allclose(scores, np.log(p / (1 - p)), atol=1e-4)


def test_loss_by_hand(logits, correct) -> None:
    params = make_params()
    scores, gates = (
        np.asarray(x, np.float64)
        for x in jax.jit(eenet_model.scores_and_gates)(params, logit_inputs(logits))
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
        + recipe.pull * ((np.asarray(params["weights"]) - start) ** 2).sum()
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


@pytest.mark.slow
def test_gradient_check(logits, correct) -> None:
    params = make_params()
    # P is held fixed in the scores' loss, so each part is checked where it is smooth:
    # the scores with gates that do not see them, the gates without that part.
    blind = params["w1"].at[:, :, C:].set(0)
    gates = {name: params[name] for name in ("w1", "b1", "w2", "b2")}
    start = jnp.asarray(eenet_model.start_weights(K, C))
    inputs = logit_inputs(logits)

    def value_of(params, recipe):
        shown = inputs, correct, COSTS, 0.3
        return eenet_model.loss(params, *shown, recipe, start)

    @jax.jit
    def of_scores(weights, bias):
        moved = {**gates, "w1": blind, "weights": weights, "bias": bias}
        return value_of(moved, DEFAULT_RECIPE)

    @jax.jit
    def of_gates(gates):
        recipe = DEFAULT_RECIPE._replace(score_weight=0.0)
        return value_of({**params, **gates}, recipe)

    kinds = {"order": 1, "modes": ("rev",), "atol": 2e-2, "rtol": 2e-2}
    check_grads(of_scores, (params["weights"], params["bias"]), **kinds)
    check_grads(of_gates, (gates,), **kinds)


@pytest.mark.parametrize("name", RELEASED[:3])  # scores of the fourth are all above 1
def test_released_assignments(name, shared) -> None:
    path = shared / "fixtures" / "eenet_released" / f"{name}.npz"
    file = np.load(path)
    num_exits, num_classes = int(file["num_exit"]), int(file["num_class"])
    width = max(len(file[f"exit{k}_r_w2"]) for k in range(num_exits))
    params = {
        "weights": schedulers.load(path).params["weights"],
        "w1": np.zeros((num_exits, width, num_classes + 2 + num_exits), np.float32),
        "b1": np.zeros((num_exits, width), np.float32),
        "w2": np.zeros((num_exits, width), np.float32),
        "b2": np.zeros(num_exits, np.float32),
    }
    for k in range(num_exits):
        rows, columns = file[f"exit{k}_r_w1"].shape
        params["w1"][k, :rows, :columns] = file[f"exit{k}_r_w1"]
        params["b1"][k, :rows] = file[f"exit{k}_r_b1"]
        params["w2"][k, :rows] = file[f"exit{k}_r_w2"]
        params["b2"][k] = file[f"exit{k}_r_b2"]
    # Theirs clips past scores when fitting, which only matters outside [0, 1].
    inside = ((file["golden_q_eval"] >= 0) & (file["golden_q_eval"] <= 1)).all(axis=0)
    assert inside.mean() > 0.3
    given = linear_inputs(np.log(file["golden_probs"])), file["golden_labels"] * 0.0
    correct = jnp.broadcast_to(given[1], given[0].shape[:2])
    _, found = jax.jit(eenet_published.losses, static_argnums=5)(
        params, given[0], correct, file["costs"], 1.0, eenet_published.PUBLISHED
    )
    expected = file["golden_p_stick"][:, inside]
    np.testing.assert_allclose(found[:, inside], expected, rtol=0, atol=2e-5)


def test_damaged_released_scheduler() -> None:
    arrays = {"thresholds": np.zeros(2), "exit0_q_class": np.zeros(3)}
    with pytest.raises(UserError, match="exit0_q_feat is missing"):
        eenet_published.from_released(arrays)


def learnable(num_samples: int, seed: int) -> Split:
    """Three exits, each better than the one before; confidence tells who is right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, num_samples).astype(np.int32)
    logits = rng.normal(size=(K, num_samples, C))
    logits[:, np.arange(num_samples), labels] += np.array([[1.0], [1.7], [2.5]])
    return Split((1.5 * logits).astype(np.float32), labels)


# Each score and each distribution once.
VARIANTS = ["maxpred+exp"]
VARIANTS += [
    pytest.param(variant, marks=pytest.mark.slow)
    for variant in ("published", "nn+exp", "entropy+nn", "patience+exp")
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_keeps_its_budget_and_beats_chance(variant, key) -> None:
    costs = np.array([1.0, 2.0, 3.0])
    given = Predictions(learnable(400, 0), learnable(1000, 1), costs)
    fitted = schedulers.fit(f"eenet:{variant}", given, budgets=[1.5, 2, 2.5], key=key)
    # Patience has few levels: all or none leave at the first exit, few at the second.
    budget, least = (2.9, 1.9) if "patience" in variant else (2.0, 1.9)
    run = simulate(fitted.for_budget(budget), given.val, costs)
    assert least < run.mean_cost <= budget + 1e-9
    mixture = given.val.correct[1].mean()  # what the exit of that cost gives alone
    assert run.accuracy(given.val.labels) > mixture


@pytest.mark.slow
def test_many_exits_compile_quickly_enough(key) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 60, 3)).astype(np.float32)
    split = Split(logits, rng.integers(0, 3, 60).astype(np.int32))
    given = Predictions(split, split, np.arange(1.0, 8))
    quick = Recipe(restarts=2, steps=20, score_steps=20, batch_size=32)
    fitted = eenet.fit(given, budgets=np.array([5.0, 7.0]), key=key, recipe=quick)
    assert simulate(fitted.for_budget(5.0), split, given.costs).mean_cost <= 5.0
