"""Arithmetic and parameters per exit, counted from the network's own functions.

MFLOPs are 2 x the multiply-adds of convolutions and matrix products in the jaxpr of
each part: the same on every device, and untouched by what a compiler fuses.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.extend import core

from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.exits import ExitCosts


def exit_mflops(backbone: Backbone, variables: Any, x: Any) -> ExitCosts:
    """Counts millions of floating-point operations per sample and exit.

    Args:
      backbone: The network.
      variables: Its variables, or their shapes.
      x: Inputs, or their shapes, for a batch of one sample.
    """
    stem, carry = _count(backbone.stem, variables, x)
    stages, heads = [], []
    for k in range(backbone.num_exits):
        cost, carry = _count(
            lambda v, c, k=k: backbone.stage(k, v, c), variables, carry
        )
        stages.append(cost)
        cost, _ = _count(lambda v, c, k=k: backbone.head(k, v, c), variables, carry)
        heads.append(cost)
    stages[0] += stem
    return _cumulative(np.array(stages) * 2e-6, np.array(heads) * 2e-6, "mflops")


def exit_mparams(backbone: Backbone, variables: Any) -> ExitCosts:
    """Counts millions of parameters that each exit needs, with all heads so far."""
    parts = backbone.part_params(variables)
    stages = np.array([_size(tree) for tree in parts["stages"]], np.float64)
    stages[0] += _size(parts["stem"])
    heads = np.array([_size(tree) for tree in parts["heads"]], np.float64)
    return _cumulative(stages / 1e6, heads / 1e6, "mparams")


def count_macs(function: Any, *args: Any) -> int:
    """Counts the multiply-adds of convolutions and matrix products in a function.

    Loops count their bodies as often as they run, and of the branches of a condition
    the most expensive counts.

    Args:
      function: Any function that JAX can trace.
      *args: Arrays, or their shapes.

    Raises:
      ValueError: If a while loop, whose length cannot be known, has any.
    """
    return _jaxpr_macs(jax.make_jaxpr(function)(*args).jaxpr)


def _count(function: Any, *args: Any) -> tuple[int, Any]:
    return count_macs(function, *args), jax.eval_shape(function, *args)


def _cumulative(stages: np.ndarray, heads: np.ndarray, unit: str) -> ExitCosts:
    return ExitCosts(np.cumsum(stages + heads), heads, unit)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _jaxpr_macs(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def _equation_macs(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return _conv_macs(equation)
    if name == "dot_general":
        (left, _), _ = params["dimension_numbers"]
        contracted = [equation.invars[0].aval.shape[i] for i in left]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(contracted)
    if name == "cond":
        return max(_jaxpr_macs(branch.jaxpr) for branch in params["branches"])
    inner = sum(_jaxpr_macs(jaxpr) for jaxpr in _inner_jaxprs(params))
    if name == "while" and inner:
        raise ValueError("cannot count a while loop: its length is not known")
    return inner * params.get("length", 1) if name == "scan" else inner


def _conv_macs(equation: core.JaxprEqn) -> int:
    kernel = equation.invars[1].aval.shape
    out_features = equation.params["dimension_numbers"].rhs_spec[0]
    # Input channels of a group x kernel height x width.
    per_output = math.prod(kernel) // kernel[out_features]
    return math.prod(equation.outvars[0].aval.shape) * per_output


def _inner_jaxprs(params: dict[str, Any]) -> list[core.Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found
