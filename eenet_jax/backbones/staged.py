"""The staged contract: a multi-exit network as a stem, stages and exit heads.

    carry_0 = stem(x);  carry_{k+1} = stage_k(carry_k);  logits_k = head_k(carry_{k+1})

Every leaf of a carry has the batch as its leading axis, so finished samples are
dropped by one ``jax.tree.map``. Outside this package only the pure functions of
``Backbone`` are seen; inside, the parts are Linen modules.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Carry = Any
Variables = Mapping[str, Any]
MANY_EXITS = 8  # with more, compiling each for many batch sizes takes too long


class StagedModule(nn.Module):
    """Stem, stages and heads as one Linen module; ``__call__`` folds the staged view.

    Attributes:
      stem: Called as ``stem(x, train) -> carry``.
      stages: K modules, each called as ``stage(carry, train) -> carry``.
      heads: K modules, each called as ``head(carry, train) -> logits [B, C]`` and with
        a method ``features(carry)`` that gives what a gate at this exit may read. One
        that reads only a part of the carry has ``reads(carry) -> carry`` for that part,
        one that may share parameters with earlier heads says so by ``shares``.
      input_kind: "image" or "text".
      output_kind: "class", or "map" where each head returns ``[B, h, w, C]``.
      image_size: Side in pixels of the images it is meant for; others may work too.
      vocab_size: Of text: token ids it has embeddings for.
    """

    stem: nn.Module
    stages: tuple[nn.Module, ...]
    heads: tuple[nn.Module, ...]
    input_kind: str = "image"
    output_kind: str = "class"
    image_size: int = 32
    vocab_size: int | None = None

    def run_stem(self, x: Any, train: bool = False) -> Carry:
        return self.stem(x, train)

    def run_stage(self, k: int, carry: Carry, train: bool = False) -> Carry:
        return self.stages[k](carry, train)

    def run_head(self, k: int, carry: Carry, train: bool = False) -> jax.Array:
        return self.heads[k](carry, train).astype(jnp.float32)

    def run_features(self, k: int, carry: Carry) -> jax.Array:
        return self.heads[k].features(carry)

    def run_to_heads(self, x: Any) -> tuple[Carry, ...]:
        carry, seen = self.run_stem(x), []
        for k, head in enumerate(self.heads):
            carry = self.run_stage(k, carry)
            seen.append(head.reads(carry) if hasattr(head, "reads") else carry)
        return tuple(seen)

    def run_heads(self, carries: Sequence[Carry], train: bool = False) -> jax.Array:
        logits = [self.run_head(k, carry, train) for k, carry in enumerate(carries)]
        return jnp.stack(logits)  # [K, B, C]

    def __call__(self, x: Any, train: bool = False) -> jax.Array:
        carry = self.run_stem(x, train)
        logits = []
        for k in range(len(self.stages)):
            carry = self.run_stage(k, carry, train)
            logits.append(self.run_head(k, carry, train))
        return jnp.stack(logits)  # [K, B, C]


@dataclasses.dataclass(frozen=True, eq=False)  # hashed at every call: by identity
class Backbone:
    """A multi-exit network as pure functions of its variables.

    ``variables`` is ``{"params": tree, "batch_stats": tree}`` (the second only where
    the network has BatchNorm). ``x`` is float32 ``[B, H, W, 3]``, normalised, for
    images, and ``{"ids": int32 [B, T], "mask": [B, T]}`` for text. Where
    ``output_kind`` is "map", logits are ``[K, B, h, w, C]``.

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

    @property
    def input_kind(self) -> str:
        """What the network reads: "image" or "text"."""
        return self.module.input_kind

    @property
    def output_kind(self) -> str:
        """What it answers: "class", one for each sample, or "map", one a pixel."""
        return self.module.output_kind

    @property
    def vocab_size(self) -> int | None:
        """Token ids, 0 .. vocab_size - 1, that a text network reads; None of images."""
        return self.module.vocab_size

    @property
    def shares_heads(self) -> bool:
        """Whether exits share parameters of their heads, which the first then holds."""
        return any(getattr(head, "shares", False) for head in self.module.heads)

    def example(self, batch_size: int = 1) -> Any:
        """Returns inputs of zeros, of the size that the network is meant for."""
        if self.input_kind == "text":
            ids = jnp.zeros((batch_size, 8), jnp.int32)
            return {"ids": ids, "mask": jnp.ones_like(ids)}
        side = self.module.image_size
        return jnp.zeros((batch_size, side, side, 3))

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

    def head_inputs(self, variables: Variables, x: Any) -> tuple[Carry, ...]:
        """Returns what each of the K heads reads, in evaluation mode."""
        return self.module.apply(variables, x, method="run_to_heads")

    def train_heads(
        self,
        variables: Variables,
        carries: Sequence[Carry],
        rngs: Mapping[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Computes the logits of the first heads in training mode.

        Args:
          variables: The network's variables.
          carries: The first of what ``head_inputs`` returns: one for each head to run.
          rngs: ``{"dropout": key}``, where heads have dropout.

        Returns:
          Logits float32 ``[len(carries), B, C]``, and the variables other than
          ``params`` after this call: only those of the heads that ran have changed.
        """
        logits, state = self.module.apply(
            variables,
            carries,
            train=True,
            rngs=rngs,
            mutable=["batch_stats"],
            method="run_heads",
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
