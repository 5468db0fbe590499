"""Post-training quantisation: the convolutions of stem and stages in int8.

    y = (round(x / s_x) * round(w / s_w)) s_x s_w + b

A BatchNorm that alone reads a convolution is folded into it first. Weights are scaled
symmetrically for each output channel, inputs for each convolution, where the scale is
the one that loses least on calibration samples. Heads stay as they are.

Written here since JAX's quantisation libraries fold no BatchNorm, and replace
``lax.conv_general_dilated``, which CPUs do without in ``cpu_layers``.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from eenet_jax.backbones import cpu_layers
from eenet_jax.backbones.layers import Conv
from eenet_jax.backbones.staged import Backbone, StagedModule, Variables
from eenet_jax.errors import UserError

LEVELS = 127  # on either side of 0
# Of the largest input; what is above is clipped.
SHARES = tuple(np.linspace(0.2, 1.0, 33).tolist())

Path = tuple[str, ...]
Norm = tuple[Path, float]  # a BatchNorm's path and epsilon


class Intercepted(StagedModule):
    """A network whose stem and stages call their layers through an interceptor."""

    interceptor: Callable[..., Any] | None = None

    def run_stem(self, x: Any, train: bool = False) -> Any:
        with nn.intercept_methods(self.interceptor):
            return super().run_stem(x, train)

    def run_stage(self, k: int, carry: Any, train: bool = False) -> Any:
        with nn.intercept_methods(self.interceptor):
            return super().run_stage(k, carry, train)


def quantise(
    backbone: Backbone, variables: Variables, batches: Iterable[Any]
) -> tuple[Backbone, dict[str, Any]]:
    """Returns a network with its convolutions in int8, for evaluation.

    Args:
      backbone: The network.
      variables: Its variables, float32.
      batches: Inputs to calibrate with, of one shape; they are read twice.

    Returns:
      The network, of the same staged contract, and its variables: a quantised
      convolution has ``kernel`` int8 ``[h, w, C, D]``, ``scale`` and ``bias`` float32
      ``[D]`` and ``input_scale``; a folded BatchNorm has none.

    Raises:
      UserError: If stem and stages have no convolution, or the network is masked.
    """
    if type(backbone.module) is not StagedModule:
        raise UserError(
            f"{backbone.name} with masks cannot run in int8; build it with "
            "model.options.mask='none'"
        )
    batches = list(batches)
    norms = foldable(backbone, variables, batches[0])
    if not norms:
        raise UserError(f"{backbone.name} has no convolutions to run in int8")
    clips = _calibrate(backbone, variables, batches)
    params = traverse_util.flatten_dict(variables["params"])
    stats = traverse_util.flatten_dict(variables.get("batch_stats", {}))
    for path, norm in norms.items():
        kernel, bias = _fold(params, stats, path, norm)
        scale, input_scale = _scale(abs(kernel).max((0, 1, 2))), _scale(clips[path])
        quantised = {
            "kernel": np.round(kernel / scale).astype(np.int8),
            "scale": scale * input_scale,
            "bias": np.broadcast_to(bias, scale.shape),
            "input_scale": input_scale,
        }
        params |= {(*path, name): jnp.array(a) for name, a in quantised.items()}
    changed = {**variables, "params": traverse_util.unflatten_dict(params)}
    if stats:
        changed["batch_stats"] = traverse_util.unflatten_dict(stats)
    else:
        changed.pop("batch_stats", None)
    return _intercepted(backbone, _run_int8, dtype="int8"), changed


def _fold(
    params: dict[Path, Any], stats: dict[Path, Any], path: Path, norm: Norm | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a convolution with its BatchNorm, which goes."""
    kernel = np.asarray(params[*path, "kernel"])
    bias = np.asarray(params.get((*path, "bias"), np.zeros(1, np.float32)))
    if norm is None:
        return kernel, bias
    where, epsilon = norm
    scale, shift = (np.asarray(params.pop((*where, n))) for n in ("scale", "bias"))
    mean, var = (np.asarray(stats.pop((*where, n))) for n in ("mean", "var"))
    factor = scale / np.sqrt(var + epsilon)
    return kernel * factor, (bias - mean) * factor + shift


def foldable(
    backbone: Backbone, variables: Variables, x: Any
) -> dict[Path, Norm | None]:
    """Finds the convolutions of stem and stages, and who alone reads each.

    Returns:
      By the path of each convolution, the path and epsilon of a BatchNorm, or None
      where anything else reads the convolution's output.
    """
    convs: dict[str, Path] = {}
    norms: dict[str, Norm] = {}

    def mark(next_fn, args, kwargs, context):
        module = context.module
        name = "/".join(module.path)
        if _calls(context, Conv):
            convs[name] = module.path
            return checkpoint_name(next_fn(*args, **kwargs), name)
        if _calls(context, nn.BatchNorm):
            norms[name] = module.path, module.epsilon
            args = (checkpoint_name(args[0], name), *args[1:])
        return next_fn(*args, **kwargs)

    marked = _intercepted(backbone, mark)
    jaxpr = jax.make_jaxpr(lambda v, x: marked.apply(v, x)[0])(variables, x).jaxpr
    readers: dict[Any, list[str | None]] = {}
    for equation in jaxpr.eqns:
        for variable in equation.invars:
            if not isinstance(variable, jax.extend.core.Literal):
                readers.setdefault(variable, []).append(equation.params.get("name"))
    found: dict[Path, Norm | None] = {}
    for equation in jaxpr.eqns:
        name = equation.params.get("name")
        if equation.primitive.name == "name" and name in convs:
            alone = readers.get(equation.outvars[0], [])
            alone = alone[0] if len(alone) == 1 else None
            found[convs[name]] = norms.get(alone)
    return found


def convolve_int8(
    x: jax.Array, params: Mapping[str, jax.Array], stride: int
) -> jax.Array:
    """Convolves maps with an int8 kernel, by whole numbers.

    CPUs, where XLA's int8 convolutions are slow, sum the same whole numbers in float32,
    which is exact below 2^24; other devices take int8 and sum in int32.

    Args:
      x: Maps, ``[B, H, W, C]``.
      params: As ``quantise`` makes them.
      stride: In both directions.

    Returns:
      Maps ``[B, H / stride, W / stride, D]``, float32.
    """
    levels = jnp.round(x.astype(jnp.float32) / params["input_scale"])
    levels = jnp.clip(levels, -LEVELS, LEVELS)

    def in_float(levels: jax.Array, kernel: jax.Array) -> jax.Array:
        return cpu_layers.convolve(levels, kernel.astype(jnp.float32), stride)

    def in_int8(levels: jax.Array, kernel: jax.Array) -> jax.Array:
        levels = levels.astype(jnp.int8)
        sums = cpu_layers.plain_convolve(levels, kernel, stride, jnp.int32)
        return sums.astype(jnp.float32)

    # Not by the device at hand: an exported network is for several.
    sums = jax.lax.platform_dependent(
        levels, params["kernel"], cpu=in_float, default=in_int8
    )
    scale, bias = (params[name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
    return sums * scale + bias


def _run_int8(next_fn, args, kwargs, context):
    module = context.module
    if _calls(context, Conv):
        y = convolve_int8(args[0], module.variables["params"], module.stride)
        return y.astype(module.dtype)
    if _calls(context, nn.BatchNorm) and not module.has_variable("params", "scale"):
        return args[0]  # folded
    return next_fn(*args, **kwargs)


def _calibrate(
    backbone: Backbone, variables: Variables, batches: list[Any]
) -> dict[Path, np.ndarray]:
    """Returns where each convolution's input is clipped: least mean squared error."""
    shares = jnp.array(SHARES, jnp.float32)

    def note_most(next_fn, args, kwargs, context):
        if _calls(context, Conv):
            context.module.sow("noted", "most", jnp.abs(args[0]).max(), **_REPLACE)
        return next_fn(*args, **kwargs)

    def note_errors(next_fn, args, kwargs, context):
        if _calls(context, Conv):
            most = context.module.get_variable("most", "most")
            errors = lax.map(lambda share: _loss(args[0], share * most), shares)
            context.module.sow("noted", "errors", errors, **_REPLACE)
        return next_fn(*args, **kwargs)

    most = _noted(backbone, note_most, variables, batches, jnp.maximum)
    known = {**variables, "most": most}
    errors = _noted(backbone, note_errors, known, batches, jnp.add)
    most, errors = jax.device_get((most, errors))
    largest = traverse_util.flatten_dict(most)
    return {
        path[:-1]: largest[*path[:-1], "most"] * np.float32(SHARES[of_shares.argmin()])
        for path, of_shares in traverse_util.flatten_dict(errors).items()
    }


def _noted(
    backbone: Backbone,
    interceptor: Callable[..., Any],
    variables: Variables,
    batches: list[Any],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
) -> Any:
    module = _intercepted(backbone, interceptor).module
    run = jax.jit(lambda v, x: module.apply(v, x, mutable=["noted"])[1]["noted"])
    noted = run(variables, batches[0])
    for x in batches[1:]:
        noted = jax.tree.map(combine, noted, run(variables, x))
    return noted


def _loss(x: jax.Array, clip: jax.Array) -> jax.Array:
    scale = _scale(clip)
    levels = jnp.clip(jnp.round(x / scale), -LEVELS, LEVELS)
    return jnp.square(x - levels * scale).mean()


def _scale(largest: Any) -> Any:
    return (largest + 1e-12) / LEVELS


def _calls(context: nn.module.InterceptorContext, kind: type) -> bool:
    return isinstance(context.module, kind) and context.method_name == "__call__"


def _intercepted(
    backbone: Backbone, interceptor: Callable[..., Any], **changes: Any
) -> Backbone:
    old = backbone.module
    fields = {f.name: getattr(old, f.name) for f in dataclasses.fields(StagedModule)}
    fields = {name: fields[name] for name in fields if name not in ("parent", "name")}
    module = Intercepted(**fields, interceptor=interceptor)
    return dataclasses.replace(backbone, module=module, **changes)


# For ``sow``: a convolution is called once.
_REPLACE = {"init_fn": lambda: None, "reduce_fn": lambda _, new: new}
