"""LEENet's gate loss, against the original's values and gradients."""

import functools

import jax
import numpy as np
import optax
import pytest

from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import gate_training, leenet
from eenet_jax.schedulers.policy import Policy

QUICK_COMPILES = True  # see conftest.py


@pytest.fixture(params=["plain", "saturated", "raw_costs"])
def case(request, root) -> dict[str, np.ndarray]:
    with np.load(root / "tests" / "goldens" / "leenet_gate_loss.npz") as file:
        prefix = f"{request.param}_"
        found = {
            key.removeprefix(prefix): file[key]
            for key in file.files
            if key.startswith(prefix)
        }
        return {**found, "alphas": file["alphas"]}


def compute(gate_logits, class_logits, alpha, case) -> gate_training.GateLoss:
    """The loss of [N, K - 1] and [N, K, C], as the original has them."""
    labels = np.repeat(case["labels"][:, None], class_logits.shape[1], axis=1)
    losses = optax.softmax_cross_entropy_with_integer_labels(class_logits, labels)
    return gate_training.gate_loss(gate_logits.T, losses.T, case["costs"], alpha)


def test_loss_and_parts_are_the_originals(case):
    one = functools.partial(compute, case["gate_logits"], case["class_logits"])
    found = jax.vmap(lambda alpha: one(alpha, case))(case["alphas"])
    for ours, name in zip(found, ("loss", "acc_part", "cost_part"), strict=True):
        np.testing.assert_allclose(ours, case[name], rtol=1e-5, atol=1e-5)


def test_gradients_are_the_originals_and_finite(case):
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(gate_logits, class_logits, alpha):
        return compute(gate_logits, class_logits, alpha, case).loss

    given = case["gate_logits"], case["class_logits"]
    found = jax.vmap(lambda alpha: gradients(*given, alpha))(case["alphas"])
    for ours, name in zip(found, ("gate_logits", "class_logits"), strict=True):
        np.testing.assert_allclose(ours, case[f"grad_{name}"], rtol=1e-5, atol=1e-5)
        assert np.isfinite(ours).all()


@pytest.fixture(scope="module")
def told() -> Predictions:
    """Three exits; the first two's features tell where the exit is right."""
    rng = np.random.default_rng(0)

    def split(num_samples: int) -> Split:
        labels = rng.integers(0, 4, num_samples).astype(np.int32)
        right = rng.random((3, num_samples)) < np.array([0.5, 0.6, 0.95])[:, None]
        answers = np.where(right, labels, (labels + 1) % 4)
        logits = 3.0 * np.eye(4, dtype=np.float32)[answers]  # equally sure of all
        noise = rng.normal(size=(2, num_samples, 3))
        noise[..., 1] = 50 + 20 * np.where(right[:2], 1, -1) + noise[..., 1]
        return Split(logits, labels, tuple(noise.astype(np.float32)))

    return Predictions(split(600), split(600), np.array([1.0, 2.0, 4.0]))


def test_gates_learn_what_features_tell(told):
    quick = leenet.Recipe(alphas=6, steps=100, penalties=((1e-3, 0.0), (1e-3, 0.5)))
    frontier = leenet.fit(told, budgets=told.costs, key=jax.random.key(0), recipe=quick)
    run = simulate(frontier.for_budget(2.2), told.test, *told.prices)
    # Half leave rightly at once, and 0.6 of the others next: 0.5 + 0.3 * 2 + 0.2 * 4.
    assert run.mean_cost < 2.3
    assert run.accuracy(told.test.labels) > 0.95
    answers = told.test.logits.argmax(-1)
    assert (answers[-1] == told.test.labels).mean() < 0.97


def test_combined_gates_hear_what_the_exit_says(told):
    def surer_where_right(split: Split) -> Split:
        right = split.logits.argmax(-1) == split.labels
        noise = tuple(f[:, ::2] for f in split.features)
        return Split(split.logits * (1 + right[..., None]), split.labels, noise)

    parts = surer_where_right(told.val), surer_where_right(told.test)
    given = Predictions(*parts, told.costs)
    quick = leenet.Recipe(alphas=6, steps=100, penalties=((1e-3, 0.0),))
    frontier = leenet.fit(
        given,
        budgets=told.costs,
        key=jax.random.key(0),
        recipe=quick,
        variant="combined",
    )
    run = simulate(frontier.for_budget(2.2), given.test, *given.prices)
    assert run.mean_cost < 2.3
    # Features are noise here: gates on them alone do not get above 0.9.
    assert run.accuracy(told.test.labels) > 0.95


def test_combined_gates_are_charged_beside_heads():
    thresholds = np.array([0.5, np.inf, -np.inf], np.float32)
    prices = np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.3]), np.array([0.01] * 3)
    combined = Policy("combined_flat", {}, thresholds).charges(*prices)
    np.testing.assert_allclose(combined, [1.01, 2.01, 3.81])  # head 2 is not run
    alone = Policy("gate_flat", {}, thresholds).charges(*prices)
    np.testing.assert_allclose(alone, [1.01, 1.91, 3.71])


def test_alpha_is_the_weight_of_cost(told):
    policies = [
        leenet.fit_alpha(told, alpha, key=jax.random.key(0)) for alpha in (0, 0.3, 1)
    ]
    runs = [simulate(policy, told.test, *told.prices) for policy in policies]
    costs = [run.mean_cost for run in runs]
    assert costs[2] == told.costs[0] < costs[1] < costs[0]
    assert runs[1].accuracy(told.test.labels) > 0.95


def test_gates_are_kept_on_the_scale_of_the_features(told):
    policy = leenet.fit_alpha(told, 0.3, key=jax.random.key(0))
    scores = policy.scores(told.test.logits, told.test.features)
    for k in range(2):
        x = told.test.features[k].astype(np.float64)
        logits = x @ policy.params[f"weight_{k}"] + policy.params["bias"][k]
        np.testing.assert_allclose(scores[k], 1 / (1 + np.exp(-logits)), atol=1e-4)
        # Right and wrong lie at 70 and 30: the gate opens between.
        opens = x[np.asarray(scores[k]) > 0.5, 1]
        assert opens.min() > 40 and (x[:, 1] > 60).sum() <= len(opens) + 5
