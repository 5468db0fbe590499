"""Schedules at chosen steps, and optimisers against formulas by hand."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import default
from eenet_jax.training import optim

PARAMS = {
    "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
    "scale": jnp.array([1.0, -1.5]),
    "bias": jnp.array([0.5, -0.25]),
}
GRADS = {
    "kernel": jnp.array([[0.3, 0.1], [-0.2, 0.4]]),
    "scale": jnp.array([0.6, -0.5]),
    "bias": jnp.array([0.05, 0.7]),
}


def _config(**changes) -> ml_collections.ConfigDict:
    """Returns the defaults with ``section__field=value`` changed."""
    config = default.get_config()
    config.optimizer.weight_decay = 0.0
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(flat)
    return config


def _rates(steps, *, steps_per_epoch=10, total_steps=100, **changes) -> np.ndarray:
    config = _config(optimizer__learning_rate=0.8, **changes)
    schedule = optim.build_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    return np.array([float(schedule(jnp.int32(step))) for step in steps])


def _run(steps: int = 1, grads=GRADS, **changes):
    config = _config(optimizer__learning_rate=0.1, **changes)
    tx = optim.build_optimizer(config, optax.constant_schedule(0.1))
    params, state = PARAMS, tx.init(PARAMS)
    for i in range(steps):
        scaled = jax.tree.map(lambda g, i=i: (i + 1) * g, grads)
        updates, state = tx.update(scaled, state, params)
        params = optax.apply_updates(params, updates)
    return params


def _assert_close(params, expected):
    for name in PARAMS:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5, atol=1e-7)


# Schedules.


def test_constant_stays():
    rates = _rates([0, 1, 99], schedule__name="constant")
    np.testing.assert_allclose(rates, 0.8, rtol=1e-6)


def test_cosine_falls_from_the_peak_to_zero():
    rates = _rates([0, 25, 50, 75, 100], schedule__name="cosine")
    expected = 0.4 * (1 + np.cos(np.pi * np.array([0, 0.25, 0.5, 0.75, 1])))
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-7)


def test_multistep_multiplies_from_the_first_step_of_each_milestone():
    changes = {"schedule__milestones": (5, 7.5), "schedule__factor": 0.5}
    steps = [0, 49, 50, 74, 75, 99]
    rates = _rates(steps, schedule__name="multistep", **changes)
    np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_warm_up_climbs_linearly_from_one_step_s_worth(name):
    changes = {"schedule__milestones": (5,), "schedule__warmup_epochs": 0.4}
    rates = _rates(range(5), schedule__name=name, **changes)
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-5)


def test_after_a_warm_up_cosine_still_ends_at_zero():
    changes = {"schedule__name": "cosine", "schedule__warmup_epochs": 2}
    rates = _rates([20, 60, 100], **changes)
    np.testing.assert_allclose(rates, [0.8, 0.4, 0.0], rtol=1e-5, atol=1e-7)


def test_after_a_warm_up_milestones_still_count_from_the_start():
    changes = {"schedule__milestones": (5, 8), "schedule__warmup_epochs": 2}
    rates = _rates([49, 50, 79, 80], schedule__name="multistep", **changes)
    np.testing.assert_allclose(rates, [0.8, 0.08, 0.08, 0.008], rtol=1e-5)


def test_a_warm_up_of_one_step_or_of_the_whole_run_is_possible():
    changes = {"schedule__name": "cosine"}
    one = _rates([0, 1], schedule__warmup_epochs=0.1, **changes)
    np.testing.assert_allclose(one, [0.8, 0.8], rtol=1e-5)
    whole = _rates([0, 49, 99], schedule__warmup_epochs=1000, **changes)
    np.testing.assert_allclose(whole, [0.008, 0.4, 0.8], rtol=1e-5)


# Optimisers.


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_momentum_with_l2_on_kernels(nesterov):
    params = _run(
        3,
        optimizer__name="sgd",
        optimizer__momentum=0.9,
        optimizer__nesterov=nesterov,
        optimizer__weight_decay=0.2,
    )
    expected = {name: np.asarray(value) for name, value in PARAMS.items()}
    velocity = dict.fromkeys(PARAMS, 0.0)
    for i in range(3):
        for name, value in expected.items():
            decay = 0.2 if name == "kernel" else 0.0
            grad = (i + 1) * np.asarray(GRADS[name]) + decay * value
            velocity[name] = 0.9 * velocity[name] + grad
            move = grad + 0.9 * velocity[name] if nesterov else velocity[name]
            expected[name] = value - 0.1 * move
    _assert_close(params, expected)


def test_sgd_without_momentum_is_plain_descent():
    params = _run(2, optimizer__name="sgd", optimizer__momentum=0.0)
    _assert_close(params, {name: PARAMS[name] - 0.3 * GRADS[name] for name in PARAMS})


def test_adam_is_adam():
    params = _run(3, optimizer__name="adam")
    expected = {}
    for name, value in PARAMS.items():
        first = second = 0.0
        for i in range(1, 4):
            grad = i * np.asarray(GRADS[name])
            first = 0.9 * first + 0.1 * grad
            second = 0.999 * second + 0.001 * grad**2
            unbiased = first / (1 - 0.9**i), second / (1 - 0.999**i)
            value = value - 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        expected[name] = value
    _assert_close(params, expected)


ZERO = jax.tree.map(jnp.zeros_like, GRADS)


def test_decay_of_adamw_is_decoupled_and_that_of_adam_is_not():
    decay = {"optimizer__weight_decay": 0.2}
    adamw = _run(grads=ZERO, optimizer__name="adamw", **decay)
    adam = _run(grads=ZERO, optimizer__name="adam", **decay)
    kernel = PARAMS["kernel"]
    np.testing.assert_allclose(adamw["kernel"], kernel * (1 - 0.1 * 0.2), rtol=1e-5)
    np.testing.assert_allclose(
        adam["kernel"], kernel - 0.1 * jnp.sign(kernel), rtol=1e-5
    )


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize("decay_all", [False, True])
def test_norms_and_biases_decay_only_with_decay_all(name, decay_all):
    params = _run(
        grads=ZERO,
        optimizer__name=name,
        optimizer__weight_decay=0.2,
        optimizer__decay_all=decay_all,
    )
    assert (jnp.abs(params["kernel"]) < jnp.abs(PARAMS["kernel"])).all()
    for leaf in ("scale", "bias"):
        assert (params[leaf] != PARAMS[leaf]).all() == decay_all
        assert (params[leaf] == PARAMS[leaf]).all() != decay_all


def test_decay_mask_marks_leaves_of_more_than_one_axis():
    tree = {"conv": jnp.zeros((3, 3, 1, 2)), "bn": {"scale": jnp.zeros(2)}}
    assert optim.decay_mask(tree) == {"conv": True, "bn": {"scale": False}}


def test_clipping_bounds_the_norm_over_all_gradients():
    plain = {"optimizer__name": "sgd", "optimizer__momentum": 0.0}
    params = _run(optimizer__clip_norm=0.5, **plain)
    norm = np.sqrt(sum(float((g**2).sum()) for g in GRADS.values()))
    assert norm > 0.5
    expected = {n: PARAMS[n] - 0.1 * GRADS[n] * (0.5 / norm) for n in PARAMS}
    _assert_close(params, expected)
    _assert_close(_run(optimizer__clip_norm=2 * norm, **plain), _run(**plain))


def test_clipping_leaves_weight_decay_alone():
    plain = {"optimizer__name": "sgd", "optimizer__momentum": 0.0}
    params = _run(
        grads=ZERO, optimizer__clip_norm=1e-3, optimizer__weight_decay=0.2, **plain
    )
    expected = PARAMS["kernel"] * (1 - 0.1 * 0.2)
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)


def test_the_learning_rate_follows_the_schedule():
    config = _config(optimizer__name="sgd", optimizer__momentum=0.0)
    tx = optim.build_optimizer(config, lambda count: 0.1 * (count + 1))
    state = tx.init(PARAMS)
    for factor in (0.1, 0.2, 0.3):
        updates, state = tx.update(GRADS, state, PARAMS)
        _assert_close(updates, {n: -factor * GRADS[n] for n in GRADS})
