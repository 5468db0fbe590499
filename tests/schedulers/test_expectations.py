"""Exit distributions and expectations: the formula, sums, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eenet_jax.schedulers import expectations
from eenet_jax.schedulers.expectations import log_exit_distribution

exit_distribution = jax.jit(expectations.exit_distribution)
expected = jax.jit(expectations.expected)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Random gate logits or values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_the_formula(gate_logits: np.ndarray) -> np.ndarray:
    """P_k = g_k prod_{j<k} (1 - g_j), one exit after the other, in float64."""
    rest, parts = np.ones(gate_logits.shape[1:]), []
    for logits in np.asarray(gate_logits, np.float64):
        gate = 1 / (1 + np.exp(-logits))
        parts.append(gate * rest)
        rest = rest * (1 - gate)
    return np.stack([*parts, rest])


@pytest.mark.parametrize("shape", [(1, 7), (3, 7), (4, 2, 5), (2,)])
def test_product_formula(shape) -> None:
    gates = 2 * draw(*shape)
    distribution = exit_distribution(gates)
    assert distribution.shape == (shape[0] + 1, *shape[1:])
    np.testing.assert_allclose(distribution, by_the_formula(gates), rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3])
def test_sums_to_1(scale) -> None:
    distribution = exit_distribution(scale * draw(5, 100))
    assert (distribution >= 0).all()
    np.testing.assert_allclose(distribution.sum(axis=0), np.ones(100), atol=1e-5)


def test_gradient_check() -> None:
    gates, values = draw(3, 4), draw(4, 4, seed=1)

    @jax.jit
    def mean(gates):
        return expected(exit_distribution(gates), values)

    check_grads(mean, (gates,), order=1, atol=1e-2, rtol=1e-2)
    check_grads(jax.jit(log_exit_distribution), (gates,), order=1, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("logit", [-1e3, 1e3])
def test_finite_gradients_at_saturated_gates(logit) -> None:
    gates = np.full((3, 2), logit, np.float32)
    values = np.arange(4, dtype=np.float32)

    @jax.jit
    @jax.value_and_grad
    def divergence(gates):
        log_p = log_exit_distribution(gates)
        p = jnp.exp(log_p)
        return expected(p, log_p) + expected(p, values)

    value, gradient = divergence(gates)
    assert np.isfinite(value)
    assert np.isfinite(np.asarray(gradient)).all()
    of_log = jax.jit(jax.grad(lambda gates: log_exit_distribution(gates).sum()))
    gradient = np.asarray(of_log(gates))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0.5  # and not stuck


P = np.array([[0.5, 1.0], [0.25, 0.0], [0.25, 0.0]], np.float32)  # [K, N]


def test_expected_of_values_for_all() -> None:
    costs = np.array([1.0, 2.0, 4.0])
    assert expected(P, costs) == pytest.approx((0.5 + 0.5 + 1 + 1) / 2)


def test_expected_of_values_for_each() -> None:
    losses = np.array([[2.0, 3.0], [4.0, 100.0], [8.0, 100.0]])
    assert expected(P, losses) == pytest.approx((1 + 1 + 2 + 3) / 2)


def test_the_two_kinds_of_values_agree() -> None:
    distribution = exit_distribution(draw(2, 50))
    costs = np.array([1.0, 2.0, 4.0])
    for_each = np.broadcast_to(costs[:, None], (3, 50))
    one, other = expected(distribution, costs), expected(distribution, for_each)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_jit_changes_nothing() -> None:
    gates = draw(3, 6)
    plain = expectations.exit_distribution(gates)
    np.testing.assert_allclose(exit_distribution(gates), plain, rtol=1e-6)
