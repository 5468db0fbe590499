"""Convolution and BatchNorm from operations whose gradients XLA runs fast on CPUs.

Same variables, values and multiply-adds as Linen's. XLA's CPU compiler transposes and
recomputes the operands of a convolution's weight gradient, and keeps BatchNorm's
centred input; here neither is needed. ``benchmarks/train_step.py`` measures the gain.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves as ``plain_convolve`` does. Reverse-mode differentiable only."""
    if kernel.shape[0] == 1:
        x = x[:, ::stride, ::stride]
        return (_rows(x) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    if stride == 1 and kernel.shape[0] % 2:
        return conv_same(x, kernel)
    return _convolve(x, kernel, stride)


def plain_convolve(
    x: jax.Array, kernel: jax.Array, stride: int = 1, sums: Any = None
) -> jax.Array:
    """Convolves with zeros around, half the kernel's size on every side.

    Args:
      x: Maps, ``[B, H, W, C]``.
      kernel: ``[size, size, C, D]``.
      stride: In both directions.
      sums: Type of what it returns; None for that of the maps.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(kernel.shape[0] // 2,) * 2] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=sums,
    )


def _convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves as ``plain_convolve`` does; small maps as one matrix product.

    On maps smaller than the kernel XLA's convolution takes some 70 times as long.
    """
    if kernel.shape[0] <= min(x.shape[1:3]):
        return plain_convolve(x, kernel, stride)
    size, channels, depth = kernel.shape[0], *kernel.shape[2:]
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), *((size // 2,) * 2,) * 2, (0, 0)))
    shifts = itertools.product(range(size), repeat=2)
    covered = [x[:, i : i + height : stride, j : j + width : stride] for i, j in shifts]
    y = jnp.concatenate(covered, axis=-1)  # [B, H / stride, W / stride, size^2 * C]
    weights = kernel.reshape(size * size * channels, depth)
    return (_rows(y) @ weights).reshape(*y.shape[:3], depth)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])  # [B, H, W, D] -> [B * H * W, D]


@jax.custom_vjp
def conv_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 1 and a square kernel of odd size, keeping the map's size.

    Args:
      x: Maps, ``[B, H, W, C]``.
      kernel: ``[size, size, C, D]``.

    Returns:
      Maps ``[B, H, W, D]``. Reverse-mode differentiable only.
    """
    return _convolve(x, kernel)


def _conv_same_forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _conv_same_backward(residuals, dy):
    x, kernel = residuals
    dx = _convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3))
    size = kernel.shape[0]
    if x.shape[-1] < dy.shape[-1]:
        return dx, _correlate(x, dy, size)
    return dx, _correlate(dy, x, size)[::-1, ::-1].swapaxes(2, 3)


conv_same.defvjp(_conv_same_forward, _conv_same_backward)


def _correlate(x: jax.Array, y: jax.Array, size: int) -> jax.Array:
    """Sums x[b, h + i, w + j, c] y[b, h, w, d] over b, h, w: [size, size, C, D].

    One matrix product for each row i, of x beside itself for each column j: give the
    one with fewer channels as x.
    """
    height, width, channels = x.shape[1:]
    x = jnp.pad(x, ((0, 0), *((size // 2,) * 2,) * 2, (0, 0)))
    beside = [x[:, :, j : j + width] for j in range(size)]
    x = jnp.concatenate(beside, axis=-1)  # [B, H + size - 1, W, size * C]
    products = [_rows(x[:, i : i + height]).T @ _rows(y) for i in range(size)]
    return jnp.stack(products).reshape(size, size, channels, -1)


class TrainBatchNorm(nn.Module):
    """BatchNorm in training mode, as ``nn.BatchNorm`` has it."""

    momentum: float
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, ones, zeros = x.shape[-1:], jnp.ones, jnp.zeros
        running_mean = self.variable("batch_stats", "mean", zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        y, mean, var = normalize(x, scale, bias, self.epsilon)
        if not self.is_initializing():
            for running, batch in ((running_mean, mean), (running_var, var)):
                share = 1 - self.momentum
                running.value = self.momentum * running.value + share * batch
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its mean and variance over the batch.

    Args:
      x: ``[..., D]``, of any floating type; computed with in float32.
      scale: ``[D]``.
      bias: ``[D]``.
      epsilon: Added to the variance.

    Returns:
      ``(x - mean) / sqrt(var + epsilon) * scale + bias`` in float32, and mean and var,
      ``[D]``, through which no gradient passes. Reverse-mode differentiable only.
    """
    return _normalize_forward(x, scale, bias, epsilon)[0]


def _normalize_forward(x, scale, bias, epsilon):
    axes, rest = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + (-1,)
    wide = x.astype(jnp.float32)
    mean = wide.mean(axes)
    var = jnp.maximum(0, (wide * wide).mean(axes) - mean * mean)
    inverse = lax.rsqrt(var + epsilon)
    y = (wide - mean.reshape(rest)) * (inverse * scale).reshape(rest)
    return (y + bias.reshape(rest), mean, var), (x, mean, inverse, scale)


def _normalize_backward(epsilon, residuals, cotangents):
    del epsilon
    x, mean, inverse, scale = residuals
    dy, *_ = cotangents
    axes, rest = tuple(range(x.ndim - 1)), (1,) * (x.ndim - 1) + (-1,)
    wide, count = x.astype(jnp.float32), x.size // x.shape[-1]
    dbias = dy.sum(axes)
    # Of dy * x and not of dy * (x - mean), which XLA would write to memory first.
    dscale = ((dy * wide).sum(axes) - mean * dbias) * inverse
    # dx = scale * inverse * (dy - mean(dy) - x_hat * mean(dy * x_hat)), as a line in x.
    by_x = -scale * inverse**2 * dscale / count
    constant = -scale * inverse * dbias / count - by_x * mean
    dx = dy * (scale * inverse).reshape(rest) + wide * by_x.reshape(rest)
    return (dx + constant.reshape(rest)).astype(x.dtype), dscale, dbias


normalize.defvjp(_normalize_forward, _normalize_backward)
