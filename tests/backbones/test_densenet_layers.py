"""The parts of DenseNets against NumPy: layers, transition, stems, last head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.backbones import densenet

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
EPSILON = 1e-5


def _drawn(shapes, seed: int = 0):
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        return np.exp(0.3 * noise) if path[-1].key == "var" else noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _norm_relu(variables, name: str, x: np.ndarray) -> np.ndarray:
    affine, running = variables["params"][name], variables["batch_stats"][name]
    sd = np.sqrt(running["var"] + EPSILON)
    return np.maximum((x - running["mean"]) / sd * affine["scale"] + affine["bias"], 0)


def _conv3x3(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def _kernel(variables, name: str) -> np.ndarray:
    return variables["params"][name]["kernel"]


@pytest.mark.parametrize("new_first", [True, False])
def test_a_dense_layer_by_hand(new_first, key):
    layer = densenet.DenseLayer(32, new_first, jnp.float32)
    x = np.random.default_rng(1).standard_normal((2, 5, 6, 7), np.float32)
    variables = _drawn(jax.eval_shape(layer.init, key, x))
    assert _kernel(variables, "conv1").shape == (1, 1, 7, 128)
    y = jit(layer.apply)(variables, x)
    new = _norm_relu(variables, "bn1", x) @ _kernel(variables, "conv1")[0, 0]
    new = _conv3x3(_norm_relu(variables, "bn2", new), _kernel(variables, "conv2"))
    expected = np.concatenate([new, x] if new_first else [x, new], axis=-1)
    kept = y[..., 32:] if new_first else y[..., :7]
    np.testing.assert_array_equal(kept, x)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize(("height", "width"), [(6, 4), (7, 5), (2, 3)])
def test_a_transition_by_hand(height, width, key):
    transition = densenet.Transition(jnp.float32)
    x = np.random.default_rng(2).standard_normal((2, height, width, 9), np.float32)
    variables = _drawn(jax.eval_shape(transition.init, key, x))
    y = jit(transition.apply)(variables, x)
    assert y.shape == (2, height // 2, width // 2, 4)  # 9 channels halved, rounded down
    z = _norm_relu(variables, "bn", x) @ _kernel(variables, "conv")[0, 0]
    z = z[:, : height // 2 * 2, : width // 2 * 2]
    expected = (
        z[:, ::2, ::2] + z[:, 1::2, ::2] + z[:, ::2, 1::2] + z[:, 1::2, 1::2]
    ) / 4
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_stem_for_small_images_is_one_convolution(key):
    stem = densenet.CifarStem(24, jnp.float32)
    variables = _drawn(jax.eval_shape(stem.init, key, jnp.zeros((1, 4, 4, 3))))
    x = np.random.default_rng(3).standard_normal((2, 4, 6, 3), np.float32)
    y = jit(stem.apply)(variables, x)
    expected = _conv3x3(x, _kernel(variables, "conv"))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert (np.asarray(y) < 0).any()


def test_the_imagenet_stem_by_hand(key):
    stem = densenet.ImageNetStem(1, jnp.float32)
    shapes = jax.eval_shape(stem.init, key, jnp.zeros((1, 8, 8, 3)))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    x = np.random.default_rng(4).random((1, 11, 8, 3), np.float32)
    y = jit(stem.apply)(variables, x)[0, :, :, 0]
    padded = np.pad(x.sum(-1)[0], 3)
    sums = np.array(
        [
            [padded[i : i + 7, j : j + 7].sum() for j in (0, 2, 4, 6)]
            for i in range(0, 11, 2)
        ]
    )
    z = np.maximum((sums - 1) / np.sqrt(1 + EPSILON) + 1, 0)
    expected = [
        [z[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max() for j in (0, 2)]
        for i in (0, 2, 4)
    ]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_the_last_head_normalises_then_pools(key):
    head = densenet.NormHead(3)
    carry = np.random.default_rng(5).standard_normal((2, 3, 4, 6), np.float32)
    variables = _drawn(jax.eval_shape(head.init, key, carry))
    pooled = _norm_relu(variables, "bn", carry).mean((1, 2))
    linear = variables["params"]["linear"]
    expected = pooled @ linear["kernel"] + linear["bias"]
    logits = jit(head.apply)(variables, carry)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(head.features(carry), carry)
