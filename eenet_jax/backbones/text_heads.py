"""Exit heads for texts: from hidden states and their mask to logits [B, C]."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.layers import Linear

POOLS = ("first", "mean")
# BERT's own initialisation, cut at two standard deviations; biases start at zero.
truncated_normal = nn.initializers.truncated_normal(0.02)


class PoolerHead(nn.Module):
    """A pooled state through a tanh layer of its width, dropout and a linear layer.

    Attributes:
      num_classes: C.
      dropout: Rate in [0, 1).
      pool: "first" for the state of the first token (BERT), "mean" for the mean of all
        that the mask lets through.
      dtype: Compute type.
    """

    num_classes: int
    dropout: float
    pool: str
    dtype: Any

    def features(self, carry: dict[str, jax.Array]) -> jax.Array:
        """Returns the pooled state, [B, D]."""
        hidden, mask = carry["hidden"], carry["mask"]
        if self.pool == "first":
            return hidden[:, 0]
        weights = mask.astype(jnp.float32)[:, :, None]
        total = jnp.sum(hidden.astype(jnp.float32) * weights, axis=1)
        count = jnp.maximum(jnp.sum(weights, axis=1), 1.0)
        return (total / count).astype(hidden.dtype)

    def reads(self, carry: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns a carry of one token, whose state is the pooled one."""
        pooled = self.features(carry)[:, None]
        return {"hidden": pooled, "mask": jnp.ones(pooled.shape[:2], bool)}

    @nn.compact
    def __call__(self, carry: dict[str, jax.Array], train: bool = False) -> jax.Array:
        pooled = self.features(carry)
        pooled = nn.tanh(dense(pooled.shape[-1], self.dtype, "pooler")(pooled))
        pooled = nn.Dropout(self.dropout)(pooled, deterministic=not train)
        return dense(self.num_classes, self.dtype, "classifier")(pooled)


def dense(features: int, dtype: Any, name: str) -> Linear:
    """Builds a linear layer with BERT's initialisation."""
    return Linear(features, dtype, truncated_normal, zero_bias=True, name=name)
