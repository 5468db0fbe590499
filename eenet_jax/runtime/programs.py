"""Lowers a network with its policy to programs that need no Python code of theirs.

All arguments are flat lists of arrays, weights among them, so no class has to be known
where a program is read back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError
from eenet_jax.runtime.staged import Ladders, run_batch
from eenet_jax.schedulers.policy import Policy


def lower_batch(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    x: Any,
    ladders: Ladders,
    platforms: Sequence[str],
) -> bytes:
    """Lowers the whole adaptive program for one batch size.

    Args:
      backbone: The network.
      variables: Its variables, or their shapes and types.
      policy: Likewise.
      x: Inputs of the batch, likewise.
      ladders: As ``adaptive_predict`` takes them.
      platforms: As ``jax.export`` names them.

    Returns:
      A serialised program ``(weights, inputs, latest_exit [B]) -> (probs, label,
      exit_index, score)``; weights and inputs are lists.
    """
    weights, weights_tree = jax.tree.flatten((variables, policy))
    inputs, inputs_tree = jax.tree.flatten(x)

    def run(weights, inputs, latest_exit):
        variables, policy = jax.tree.unflatten(weights_tree, weights)
        x = jax.tree.unflatten(inputs_tree, inputs)
        found = run_batch(backbone, ladders, variables, policy, x, latest_exit)
        return tuple(found)

    latest_exit = jax.ShapeDtypeStruct(inputs[0].shape[:1], jnp.int32)
    return _serialised(run, platforms, _shapes(weights), _shapes(inputs), latest_exit)


def lower_stages(
    backbone: Backbone, variables: Any, x: Any, platforms: Sequence[str]
) -> list[bytes | str]:
    """Lowers each stage with its exit for any batch size.

    Args:
      backbone: The network.
      variables: Its variables, or their shapes and types.
      x: Inputs of any batch, likewise.
      platforms: As ``jax.export`` names them.

    Returns:
      For each stage a serialised program ``(weights, carry) -> (carry, logits)``;
      weights and carry are lists, and the first stage takes the inputs as carry. Where
      one cannot be lowered, the reason.
    """
    weights, weights_tree = jax.tree.flatten(variables)
    weights = _shapes(weights)
    (batch,) = export.symbolic_shape("b")
    given, given_tree = jax.tree.flatten(x)
    given = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in given]
    pieces: list[bytes | str] = []
    for k in range(backbone.num_exits):
        step = _stage(backbone, k, weights_tree, given_tree)

        def piece(weights, carry, k=k, step=step):
            variables, after = step(weights, carry)
            logits = backbone.head(k, variables, after)
            return jax.tree.leaves(after), logits

        try:
            pieces.append(_serialised(piece, platforms, weights, given))
        except UserError:
            raise
        except Exception as error:  # whatever an operation does not know to do
            pieces.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        try:
            carry = jax.eval_shape(lambda *a, step=step: step(*a)[1], weights, given)
        except Exception:  # the stage itself: no later one knows its inputs
            reason = f"stage {k} before it: {pieces[-1]}"
            return pieces + [reason] * (backbone.num_exits - k - 1)
        given, given_tree = jax.tree.flatten(carry)
    return pieces


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Returns the platforms; raises a UserError if there is none, or an unknown one."""
    known = ("cpu", "cuda", "rocm", "tpu")
    unknown = [name for name in platforms if name not in known]
    if unknown or not platforms:
        raise UserError(
            f"--platforms={','.join(platforms)} must be one or more of "
            f"{', '.join(known)}, with commas between"
        )
    return tuple(dict.fromkeys(platforms))


def _stage(backbone: Backbone, k: int, weights_tree: Any, carry_tree: Any) -> Callable:
    def step(weights, carry):
        variables = jax.tree.unflatten(weights_tree, weights)
        carry = jax.tree.unflatten(carry_tree, carry)
        if k == 0:
            carry = backbone.stem(variables, carry)
        return variables, backbone.stage(k, variables, carry)

    return step


def _shapes(arrays: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def _serialised(run: Callable, platforms: Sequence[str], *shapes: Any) -> bytes:
    try:
        exported = export.export(jax.jit(run), platforms=platforms)(*shapes)
        return bytes(exported.serialize())
    except ImportError:
        raise UserError(
            "bundles need the flatbuffers package; install with: pip install "
            "flatbuffers"
        ) from None
