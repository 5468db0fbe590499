"""The staged contract: a multi-exit network as a stem, stages and exit heads.

    carry_0 = stem(x);  carry_{k+1} = stage_k(carry_k);  logits_k = head_k(carry_{k+1})

Every leaf of a carry has the batch as its leading axis, so finished samples are
dropped by one ``jax.tree.map``. Outside this package only the pure functions of
``Backbone`` are seen; inside, the parts are Linen modules.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Carry = Any
Variables = Mapping[str, Any]


class StagedModule(nn.Module):
    """Stem, stages and heads as one Linen module; ``__call__`` folds the staged view.

    Attributes:
      stem: Called as ``stem(x, train) -> carry``.
      stages: K modules, each called as ``stage(carry, train) -> carry``.
      heads: K modules, each called as ``head(carry, train) -> logits [B, C]`` and with
        a method ``features(carry)`` that gives what a gate at this exit may read.
    """

    stem: nn.Module
    stages: tuple[nn.Module, ...]
    heads: tuple[nn.Module, ...]

    def run_stem(self, x: Any, train: bool = False) -> Carry:
        return self.stem(x, train)

    def run_stage(self, k: int, carry: Carry, train: bool = False) -> Carry:
        return self.stages[k](carry, train)

    def run_head(self, k: int, carry: Carry, train: bool = False) -> jax.Array:
        return self.heads[k](carry, train).astype(jnp.float32)

    def run_features(self, k: int, carry: Carry) -> jax.Array:
        return self.heads[k].features(carry)

    def __call__(self, x: Any, train: bool = False) -> jax.Array:
        carry = self.run_stem(x, train)
        logits = []
        for k in range(len(self.stages)):
            carry = self.run_stage(k, carry, train)
            logits.append(self.run_head(k, carry, train))
        return jnp.stack(logits)  # [K, B, C]


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A multi-exit network as pure functions of its variables.

    ``variables`` is ``{"params": tree, "batch_stats": tree}`` (the second only where
    the network has BatchNorm). ``x`` is float32 ``[B, H, W, 3]``, normalised.

    Attributes:
      name: Name under which ``backbones.build`` made it.
      num_exits: K.
      num_classes: C.
      dtype: Compute type.
      module: The Linen module behind the functions.
    """

    name: str
    num_exits: int
    num_classes: int
    dtype: str
    module: StagedModule

    def init(self, key: jax.Array, x: Any) -> Variables:
        """Returns fresh variables for inputs shaped like ``x``."""
        key_params, key_dropout = jax.random.split(key)
        rngs = {"params": key_params, "dropout": key_dropout}
        return self.module.init(rngs, x)

    def apply(
        self,
        variables: Variables,
        x: Any,
        *,
        train: bool = False,
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Computes the logits of all exits.

        Args:
          variables: The network's variables.
          x: Input batch.
          train: True for batch statistics and dropout.
          rngs: ``{"dropout": key}``, where the network has dropout and ``train``.

        Returns:
          Logits float32 ``[K, B, C]``, and the variables other than ``params`` after
          this call (changed only when ``train`` is set).
        """
        if not train:
            state = {name: v for name, v in variables.items() if name != "params"}
            return self.module.apply(variables, x), state
        logits, state = self.module.apply(
            variables, x, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return logits, dict(state)

    def stem(self, variables: Variables, x: Any) -> Carry:
        """Runs the stem in evaluation mode."""
        return self.module.apply(variables, x, method="run_stem")

    def stage(self, k: int, variables: Variables, carry: Carry) -> Carry:
        """Runs stage ``k`` (0-based) in evaluation mode."""
        return self.module.apply(variables, k, carry, method="run_stage")

    def head(self, k: int, variables: Variables, carry: Carry) -> jax.Array:
        """Returns the logits of exit ``k``, float32 ``[B, C]``."""
        return self.module.apply(variables, k, carry, method="run_head")

    def exit_features(self, k: int, variables: Variables, carry: Carry) -> jax.Array:
        """Returns what a gate at exit ``k`` may read, ``[B, ...]``."""
        return self.module.apply(variables, k, carry, method="run_features")

    def part_params(self, variables: Variables) -> dict[str, Any]:
        """Splits the parameters: ``{"stem": tree, "stages": [K], "heads": [K]}``."""
        params = variables["params"]
        exits = range(self.num_exits)
        return {
            "stem": params.get("stem", {}),
            "stages": tuple(params.get(f"stages_{k}", {}) for k in exits),
            "heads": tuple(params.get(f"heads_{k}", {}) for k in exits),
        }
