"""Convolution, BatchNorm, ReLU and linear layers that all backbones share.

Weights and biases start as U(-b, b) with b = 1/sqrt(fan_in), PyTorch's default, which
the published systems were trained from.

Accelerators get XLA's convolution and Linen's BatchNorm. On CPUs XLA trains these
several times slower than it must, so there the same is computed from other operations
(``cpu_layers``).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones import cpu_layers

uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """A convolution padded by kernel // 2 on every side.

    The padding is symmetric also for stride 2, where "SAME" would not be. A bias starts
    as U(-b, b), b = 1/sqrt(fan_in).
    """

    features: int
    kernel: int
    stride: int = 1
    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = uniform_fan_in
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        convolve = cpu_layers.convolve if _for_cpu() else cpu_layers.plain_convolve
        if not self.use_bias:
            x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
            return convolve(x, kernel, self.stride)
        init = uniform_bias(math.prod(shape[:3]))
        bias = self.param("bias", init, shape[3:], jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return convolve(x, kernel, self.stride) + bias.reshape(1, 1, 1, -1)


def conv(
    features: int, kernel: int, *, stride: int = 1, dtype: Any, name: str
) -> nn.Module:
    """Builds a convolution without bias."""
    return Conv(features, kernel, stride, dtype=dtype, name=name)


def biased_conv(
    features: int, kernel: int, *, stride: int = 1, dtype: Any, name: str
) -> nn.Module:
    """Builds a convolution with bias."""
    return Conv(features, kernel, stride, use_bias=True, dtype=dtype, name=name)


def uniform_bias(fan_in: int) -> Callable[..., jax.Array]:
    """Returns an initialiser that draws U(-b, b) with b = 1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def batch_norm(
    train: bool, *, dtype: Any, name: str, momentum: float = 0.9
) -> nn.Module:
    """Builds a BatchNorm of epsilon 1e-5; ``momentum`` is its statistics' decay."""
    if train and _for_cpu():
        return cpu_layers.TrainBatchNorm(momentum, 1e-5, dtype, name=name)
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
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
    """A linear layer over the last axis.

    Its bias starts as U(-b, b), b = 1/sqrt(fan_in), or as zeros where ``zero_bias``.
    """

    features: int
    dtype: Any
    kernel_init: Callable[..., jax.Array] = uniform_fan_in
    zero_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in, shape = x.shape[-1], x.shape[:-1]
        kernel = self.param(
            "kernel", self.kernel_init, (fan_in, self.features), jnp.float32
        )
        init = nn.initializers.zeros if self.zero_bias else uniform_bias(fan_in)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # As rows: on CPUs a gradient that sums over two axes takes 2.5 times as long.
        y = x.reshape(-1, fan_in) @ kernel + bias[None]
        return y.reshape(*shape, self.features)
