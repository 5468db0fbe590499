"""Measured time per exit: what is reported, not how fast it is."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones, costs
from eenet_jax.costs import latency


@pytest.fixture(scope="module")
def measure():
    """Measures a small network with three exits; takes the repeats."""
    options = {"depth": 8, "width": 2, "exits": (0, 1), "head": "linear"}
    backbone = backbones.build("cifar_resnet", num_classes=3, **options)
    x = jnp.ones((4, 8, 8, 3))
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    return functools.partial(costs.exit_latency_ms, backbone, variables, x)


@pytest.fixture(scope="module")
def measured(measure):
    return measure(repeats=3)


def test_costs_are_positive_and_do_not_fall(measured):
    assert measured.unit == "latency_ms"
    assert measured.costs.shape == (3,) and measured.costs.dtype == np.float64
    assert (measured.costs > 0).all() and np.isfinite(measured.costs).all()
    assert (np.diff(measured.costs) >= 0).all()
    assert measured.head_costs.shape == (3,) and (measured.head_costs >= 0).all()
    assert (measured.head_costs <= np.diff(measured.costs, prepend=0)).all()


def test_details_say_where_and_how(measured):
    details = measured.details
    assert details["batch_size"] == 4
    assert details["repeats"] == 3
    assert details["platform"] == jax.devices()[0].platform
    assert details["device"] == jax.devices()[0].device_kind
    assert details["dtype"] == "float32"
    assert details["jax"] == jax.__version__


def test_costs_are_the_running_maximum_of_the_medians_per_sample(measure, monkeypatch):
    # Milliseconds a call of each of the three exits, and of each head.
    ms = np.array([[8.0, 80, 4], [4, 8, 6], [12, 16, 90], *[[1.0, 2, 9]] * 3])
    monkeypatch.setattr(
        latency, "take_turns", lambda timed, repeats: dict(zip(timed, ms, strict=True))
    )
    result = measure(repeats=3)
    np.testing.assert_allclose(result.details["median_ms"], [2, 1.5, 4], rtol=1e-6)
    np.testing.assert_allclose(result.costs, [2, 2, 4], rtol=1e-6)
    np.testing.assert_allclose(result.head_costs, [0.5, 0, 0.5], rtol=1e-6)
    low, high = result.details["quartiles_ms"]
    np.testing.assert_allclose(low, [1.5, 1.25, 3.5], rtol=1e-6)
    np.testing.assert_allclose(high, [11, 1.75, 13.25], rtol=1e-6)


def test_details_are_ready_for_json(measured):
    assert json.loads(json.dumps(dict(measured.details))) == measured.details
