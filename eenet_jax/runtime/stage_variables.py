"""Which of a network's variables a stage reads.

A call hands over every array among its arguments, whether it is read or not. For a
program of one stage most are not, and on a CPU whose caches the last convolution has
just emptied, that takes a good part of a millisecond.
"""

import functools
from typing import Any

import jax
from flax import traverse_util

from eenet_jax.backbones.staged import Backbone, Variables


def stage_variables(
    backbone: Backbone, variables: Variables, x: Any
) -> list[Variables]:
    """Returns for each stage the variables that it, its head and its gate read.

    Args:
      backbone: The network.
      variables: Its variables.
      x: A batch of inputs, or their shapes and types.

    Returns:
      K trees like ``variables`` without what is not read; the first with the stem's.
    """
    flat = traverse_util.flatten_dict(variables)
    leaves, tree = jax.tree.flatten(jax.eval_shape(lambda *a: a, flat, x))
    return [
        traverse_util.unflatten_dict({path: flat[path] for path in paths})
        for paths in _read_paths(backbone, tree, *leaves)
    ]


@functools.lru_cache(maxsize=16)
def _read_paths(backbone: Backbone, tree: Any, *leaves: Any) -> list[list[Any]]:
    """Traces each stage, and returns the paths of the variables its operations read."""
    flat, carry = jax.tree.unflatten(tree, leaves)
    size, structure = len(jax.tree.leaves(flat)), jax.tree.structure(flat)
    paths = []
    for k in range(backbone.num_exits):
        run = functools.partial(_run, backbone, k)
        traced, (carry, _) = jax.make_jaxpr(run, return_shape=True)(flat, carry)
        jaxpr = traced.jaxpr
        read = {id(var) for equation in jaxpr.eqns for var in equation.invars}
        read |= {id(var) for var in jaxpr.outvars}
        is_read = [id(var) in read for var in jaxpr.invars[:size]]
        found = jax.tree.unflatten(structure, is_read)
        paths.append([path for path in flat if any(jax.tree.leaves(found[path]))])
    return paths


def _run(backbone: Backbone, k: int, flat: Any, carry: Any) -> Any:
    variables = traverse_util.unflatten_dict(flat)
    if k == 0:
        carry = backbone.stem(variables, carry)
    carry = backbone.stage(k, variables, carry)
    logits = backbone.head(k, variables, carry)
    return carry, (logits, backbone.exit_features(k, variables, carry))
