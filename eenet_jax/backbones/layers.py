"""Convolution, BatchNorm and linear layers with the initialisation all backbones share.

Weights and biases start as U(-b, b) with b = 1/sqrt(fan_in), PyTorch's default, which
the published systems were trained from.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(
    features: int, kernel: int, *, stride: int = 1, dtype: Any, name: str
) -> nn.Conv:
    """Builds a convolution without bias, padded by kernel // 2 on every side.

    The padding is symmetric also for stride 2, where "SAME" would not be.
    """
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=uniform_fan_in,
        name=name,
    )


def batch_norm(train: bool, *, dtype: Any, name: str) -> nn.BatchNorm:
    """Builds a BatchNorm with decay 0.9 of its running statistics and epsilon 1e-5."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


class Linear(nn.Module):
    """A linear layer whose bias also starts as U(-b, b), b = 1/sqrt(fan_in)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        bound = x.shape[-1] ** -0.5

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param(
            "kernel", uniform_fan_in, (x.shape[-1], self.features), jnp.float32
        )
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))
