"""Early stopping, exit by exit: heads on frozen stages have nothing in common."""

from collections.abc import Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax import distributed


class BestHeads(flax.struct.PyTreeNode):
    """The best that each trained head has been; a checkpoint holds it.

    Attributes:
      variables: Of the H heads as they were at their best: collections of parts, as
        ``{"params": {"heads_0": tree, ...}, ...}``.
      accuracy: What they reached on the validation part, float32 ``[H]``.
      waited: Validations since, int32 ``[H]``.
    """

    variables: dict[str, dict[str, Any]]
    accuracy: jax.Array
    waited: jax.Array

    @classmethod
    def start(cls, variables: Any, names: Collection[str]) -> "BestHeads":
        """Returns a record that any validation beats.

        Args:
          variables: The network's.
          names: Of the trained heads, in order.
        """
        chosen = {
            collection: {name: parts[name] for name in names if name in parts}
            for collection, parts in variables.items()
        }
        return cls(
            jax.tree.map(jnp.copy, chosen),
            jnp.full(len(names), -1.0, jnp.float32),
            jnp.zeros(len(names), jnp.int32),
        )

    def update(self, variables: Any, accuracy: np.ndarray) -> "BestHeads":
        """Takes the heads that have become better.

        Args:
          variables: The network's, as validated.
          accuracy: Of all exits, ``[K]``; those of the trained heads come first.
        """
        found = np.asarray(accuracy[: len(self.accuracy)], np.float32)
        better = found > np.asarray(self.accuracy)
        # Heads are numbered from 0, and the first H are trained.
        taken = {f"heads_{k}" for k in np.flatnonzero(better)}
        kept = {
            collection: {
                name: jax.tree.map(jnp.copy, variables[collection][name])
                if name in taken
                else part
                for name, part in parts.items()
            }
            for collection, parts in self.variables.items()
        }
        return BestHeads(
            kept,
            _like(self.accuracy, np.where(better, found, self.accuracy)),
            _like(self.waited, np.where(better, 0, np.asarray(self.waited) + 1)),
        )

    def put(self, variables: Any) -> Any:
        """Returns the network's variables with the best heads in their places."""
        return {
            collection: {**parts, **self.variables.get(collection, {})}
            for collection, parts in variables.items()
        }

    def stopped(self, patience: int) -> bool:
        """Says whether no head has become better in ``patience`` validations."""
        return bool((np.asarray(self.waited) >= patience).all())


def _like(old: jax.Array, values: np.ndarray) -> jax.Array:
    """Returns values in the type and on the devices of what they replace."""
    return distributed.put(values.astype(old.dtype), old.sharding)
