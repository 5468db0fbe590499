"""Exit distributions and expectations: the formula, sums, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eenet_jax.schedulers.expectations import (
    exit_distribution,
    expected,
    log_exit_distribution,
)


def by_the_formula(gate_logits: np.ndarray) -> np.ndarray:
    """P_k = g_k prod_{j<k} (1 - g_j), one exit after the other, in float64."""
    rest, parts = np.ones(gate_logits.shape[1:]), []
    for logits in np.asarray(gate_logits, np.float64):
        gate = 1 / (1 + np.exp(-logits))
        parts.append(gate * rest)
        rest = rest * (1 - gate)
    return np.stack([*parts, rest])


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (4, 2, 5), (2,)])
def test_product_formula(shape, key) -> None:
    gates = 2 * jax.random.normal(key, shape)
    distribution = exit_distribution(gates)
    assert distribution.shape == (shape[0] + 1, *shape[1:])
    np.testing.assert_allclose(distribution, by_the_formula(gates), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_sums_to_1(scale, key) -> None:
    distribution = exit_distribution(scale * jax.random.normal(key, (5, 100)))
    assert (distribution >= 0).all()
    np.testing.assert_allclose(distribution.sum(axis=0), np.ones(100), atol=1e-5)


def test_gradient_check(key) -> None:
    key_gates, key_values = jax.random.split(key)
    gates = jax.random.normal(key_gates, (3, 4))
    values = jax.random.normal(key_values, (4, 4))

    def mean(gates):
        return expected(exit_distribution(gates), values)

    check_grads(mean, (gates,), order=1, atol=1e-2, rtol=1e-2)
    check_grads(log_exit_distribution, (gates,), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("logit", [-1e3, 1e3])
def test_finite_gradients_at_saturated_gates(logit) -> None:
    gates = jnp.full((3, 2), logit)
    values = jnp.arange(4.0)

    def divergence(gates):
        log_p = log_exit_distribution(gates)
        return expected(jnp.exp(log_p), log_p) + expected(jnp.exp(log_p), values)

    value, gradient = jax.value_and_grad(divergence)(gates)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
    log_gradient = jax.grad(lambda g: log_exit_distribution(g).sum())(gates)
    assert jnp.isfinite(log_gradient).all()
    assert jnp.abs(log_gradient).max() > 0


P = jnp.array([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]])  # [K, N]


def test_expected_of_values_for_all() -> None:
    costs = jnp.array([1.0, 2.0, 4.0])
    assert expected(P, costs) == pytest.approx((0.5 + 0.5 + 1 + 1) / 2)


def test_expected_of_values_for_each() -> None:
    losses = jnp.array([[2.0, 3.0], [4.0, 100.0], [8.0, 100.0]])
    assert expected(P, losses) == pytest.approx((1 + 1 + 2 + 3) / 2)


def test_the_two_kinds_of_values_agree(key) -> None:
    distribution = exit_distribution(jax.random.normal(key, (2, 50)))
    costs = jnp.array([1.0, 2.0, 4.0])
    for_each = jnp.broadcast_to(costs[:, None], (3, 50))
    one, other = expected(distribution, costs), expected(distribution, for_each)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_jit_changes_nothing(key) -> None:
    gates = jax.random.normal(key, (3, 6))
    jitted = jax.jit(exit_distribution)(gates)
    np.testing.assert_allclose(jitted, exit_distribution(gates), rtol=1e-6)
