"""Convolution, BatchNorm, ReLU and linear layers that all backbones share.

Weights and biases start as U(-b, b) with b = 1/sqrt(fan_in), PyTorch's default, which
the published systems were trained from.

Accelerators get Linen's convolution and BatchNorm as they are. On CPUs XLA trains them
several times slower than it must, so ``conv`` and ``batch_norm`` give what computes the
same from other operations (``cpu_layers``) when traced for one.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones import cpu_layers

uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv(
    features: int, kernel: int, *, stride: int = 1, dtype: Any, name: str
) -> nn.Module:
    """Builds a convolution without bias, padded by kernel // 2 on every side.

    The padding is symmetric also for stride 2, where "SAME" would not be.
    """
    if _for_cpu():
        return cpu_layers.Conv(
            features, kernel, stride, uniform_fan_in, dtype, name=name
        )
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


def batch_norm(train: bool, *, dtype: Any, name: str) -> nn.Module:
    """Builds a BatchNorm with decay 0.9 of its running statistics and epsilon 1e-5."""
    if train and _for_cpu():
        return cpu_layers.TrainBatchNorm(0.9, 1e-5, dtype, name=name)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


def _for_cpu() -> bool:
    return jax.default_backend() == "cpu"


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """Computes max(x, 0) elementwise; NaN stays NaN and the slope at 0 is 0.

    Written as a choice and not as a maximum, because XLA's CPU compiler computes a
    maximum again in each operation that reads it, and with it the sum before it: in a
    residual network every block would compute all blocks before it again.
    """
    return jnp.where(x < 0, 0, x)


relu.defjvps(lambda tangent, y, x: jnp.where(y > 0, tangent, 0))


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
