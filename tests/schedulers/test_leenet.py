"""LEENet's gate loss, against the original's values and gradients."""

import functools

import jax
import numpy as np
import optax
import pytest

from eenet_jax.schedulers import leenet


@pytest.fixture(params=["plain", "saturated", "raw_costs"])
def case(request, shared) -> dict[str, np.ndarray]:
    with np.load(shared / "fixtures" / "leenet" / "gate_loss.npz") as file:
        prefix = f"{request.param}_"
        found = {
            key.removeprefix(prefix): file[key]
            for key in file.files
            if key.startswith(prefix)
        }
        return {**found, "alphas": file["alphas"]}


def compute(gate_logits, class_logits, alpha, case) -> leenet.GateLoss:
    """The loss of [N, K - 1] and [N, K, C], as the original has them."""
    labels = np.repeat(case["labels"][:, None], class_logits.shape[1], axis=1)
    losses = optax.softmax_cross_entropy_with_integer_labels(class_logits, labels)
    return leenet.gate_loss(gate_logits.T, losses.T, case["costs"], alpha)


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
