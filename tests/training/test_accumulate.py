"""Gradient accumulation: parts of a batch, and the step of the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eenet_jax.training import losses, step

IMAGES = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
LABELS = np.arange(24, dtype=np.int32) % 3


def _forward(variables, x, rngs):
    del rngs
    logits = x @ variables["params"]["kernel"]
    seen = variables["batch_stats"]["seen"] + len(x)
    return jnp.stack([logits, 2 * logits]), {"batch_stats": {"seen": seen}}


def _loss(logits, labels, step_index):
    del step_index
    return losses.joint_loss(logits, labels)


def _step(accumulate):
    tx = optax.sgd(0.5, momentum=0.9)
    variables = {
        "params": {"kernel": jnp.linspace(-1, 1, 12).reshape(4, 3)},
        "batch_stats": {"seen": jnp.int32(0)},
    }
    state = step.TrainState(jnp.int32(0), variables, tx.init(variables["params"]), None)
    options = {"forward": _forward, "tx": tx, "loss_fn": _loss}
    run = functools.partial(step.train_step, accumulate=accumulate, **options)
    return jax.jit(run)(state, IMAGES, LABELS, key=jax.random.key(0))


@pytest.mark.parametrize("accumulate", [2, 3, 24])
def test_the_mean_gradient_of_the_parts_is_that_of_the_batch(accumulate):
    (whole, expected), (parts, found) = _step(1), _step(accumulate)

    def close(a, b):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)

    jax.tree.map(close, whole.variables["params"], parts.variables["params"])
    jax.tree.map(close, whole.opt_state, parts.opt_state)
    jax.tree.map(close, expected, found)
    assert parts.step == 1


def test_state_goes_from_part_to_part():
    parts, _ = _step(4)
    assert parts.variables["batch_stats"]["seen"] == len(IMAGES)
