"""Logistic bag-of-features heads (Predictive Exit, shared/BACKBONES.md 3.1).

Each position of a map is compared with learned codewords, and how much of each of
them a window holds is what linear layers read. Several exits may share a part of
their heads: its parameters then stand with the first of these heads.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.heads import MapHead
from eenet_jax.backbones.layers import Linear, biased_conv
from eenet_jax.errors import UserError

TINY = 5e-16  # added to the sum over codewords, as published


class BagOfFeatures(nn.Module):
    """Shares of codewords in windows of a map.

        s = codebook(x);  u = (tanh(a s + c) + 1) / 2;
        u = n1 u / (sum over codewords of u + 5e-16);  y = n2 avgpool(u)

    Rows and columns that fill no window are dropped. Computed in float32 but for the
    codebook, a 1x1 convolution.

    Attributes:
      codewords: J.
      horizon: Side h of the windows.
      dtype: Compute type of the codebook.
    """

    codewords: int
    horizon: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, D] to [B, J (H // h) (W // h)] in order J, rows, columns."""
        starts = {"a": 1, "c": 0, "n1": self.codewords, "n2": self.horizon}
        a, c, n1, n2 = (
            self.param(name, nn.initializers.constant(start), (1,), jnp.float32)[0]
            for name, start in starts.items()
        )
        s = biased_conv(self.codewords, 1, dtype=self.dtype, name="codebook")(x)
        u = (jnp.tanh(a * s.astype(jnp.float32) + c) + 1) / 2
        u = n1 * u / (jnp.sum(u, axis=-1, keepdims=True) + TINY)
        y = n2 * window_means(u, self.horizon)
        return y.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def window_means(x: jax.Array, size: int) -> jax.Array:
    """Averages size x size windows side by side, what fills none being dropped.

    Args:
      x: Maps, shape ``[B, H, W, D]``.
      size: Side of the windows.

    Returns:
      Shape ``[B, H // size, W // size, D]``.

    Raises:
      UserError: If the map is smaller than a window.
    """
    batch, height, width, depth = x.shape
    rows, columns = height // size, width // size
    if not rows * columns:
        raise UserError(
            f"a map of {height}x{width} is smaller than the {size}x{size} windows of "
            "its bag-of-features head; use larger images, or no exit there"
        )
    x = x[:, : rows * size, : columns * size]
    return x.reshape(batch, rows, size, columns, size, depth).mean((2, 4))


def shown_map(carry: Any) -> jax.Array:
    """Returns the map that an exit reads: the carry, or the first of a tuple."""
    return carry[0] if isinstance(carry, tuple) else carry


@dataclasses.dataclass(frozen=True)
class HeadParts:
    """What a head is made of, by names that heads have in common where they share.

    Attributes:
      horizon: Side of the windows.
      pooling: Name of the bag of features.
      hidden: Of the linear layer to as many numbers as there are codewords.
      linear: Of the linear layer to the classes.
    """

    horizon: int
    pooling: str
    hidden: str
    linear: str


class BofHead(MapHead):
    """A bag of features and linear layers without a non-linearity between them.

    From a single window one layer leads to the classes, otherwise two. Of a carry that
    is a tuple the first entry is the map. Each module is the head's own or an int k:
    the one that the head of exit k of the same network has. (Linen shares modules that
    several others were given, but under the name that comes first in the alphabet,
    heads_10 before heads_9.)

    Attributes:
      parts: The modules' names.
      pooling: A ``BagOfFeatures``.
      hidden: The first of two layers.
      linear: To the classes.
    """

    parts: HeadParts
    pooling: nn.Module | int
    hidden: nn.Module | int
    linear: nn.Module | int

    def __call__(self, carry: Any, train: bool = False) -> jax.Array:
        pooling = self._module("pooling")
        y = pooling(shown_map(carry))
        if y.shape[-1] > pooling.codewords:
            y = self._module("hidden")(y)
        return self._module("linear")(y)

    def _module(self, name: str) -> nn.Module:
        module = getattr(self, name)
        if isinstance(module, int):
            return getattr(self.parent.heads[module], name)
        return module

    @property
    def shares(self) -> bool:
        """Whether a part of it is that of another exit's head."""
        return any(isinstance(m, int) for m in (self.pooling, self.hidden, self.linear))

    def features(self, carry: Any) -> jax.Array:
        """Returns the map, [B, H, W, D]."""
        return shown_map(carry)

    def reads(self, carry: Any) -> jax.Array:
        """Returns the map, [B, H, W, D]."""
        return shown_map(carry)


def build_heads(
    parts: Sequence[HeadParts],
    num_classes: int,
    *,
    codewords: int = 64,
    share: bool = True,
    dtype: Any = jnp.float32,
) -> tuple[BofHead, ...]:
    """Builds the heads of a network's early exits.

    Args:
      parts: Of each head.
      num_classes: C.
      codewords: J.
      share: Whether parts of one name are one module, that of the first head which
        names it; otherwise each head has its own.
      dtype: Compute type; parameters and logits are float32.
    """
    first: dict[tuple[str, str], int] = {}

    def once(k: int, kind: str, module: nn.Module) -> nn.Module | int:
        owner = first.setdefault((kind, getattr(parts[k], kind)), k)
        return owner if share and owner != k else module

    return tuple(
        BofHead(
            names,
            once(k, "pooling", BagOfFeatures(codewords, names.horizon, dtype)),
            once(k, "hidden", Linear(codewords, dtype)),
            once(k, "linear", Linear(num_classes, dtype)),
        )
        for k, names in enumerate(parts)
    )
