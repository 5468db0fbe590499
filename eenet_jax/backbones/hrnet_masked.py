"""Confidence masks: pixels that an exit has decided are not computed again (ADP-C).

After exit k its logits z, with what was decided before in them, say for each pixel of
each later size whether it is still to compute (m = 1). Up to the next exit a
convolution y = conv(x), the next head's too, then gives

    m y + (1 - m) K(m y)

and where m = 0 the next exit's logits are z again. K fills in from the 7x7 around,
with weights exp(-lambda^2 d^2) at distance d and 0 at the centre, divided by their sum
plus 1e-5: not by that of the pixels which are known, as published.

Everything is computed all the same; ``costs.masked_macs`` counts what need not be.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from eenet_jax.backbones.layers import Conv
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.errors import UserError

MASKS = ("confidence", "entropy")
LAMBDA = 3.0
REACH = 3  # of K, to every side

Size = tuple[int, int]
Carry = dict[str, Any]  # "maps", and from the first exit on "logits"


class Masked(StagedModule):
    """A network of maps whose stages and heads are masked by the exit before.

    The masks of a stage come from the exit before it, so a stage runs its head too and
    hands on the logits, which are all that the head then gives. With ``learn_lambda``,
    ``params["lambdas"]`` has one scalar for each masked convolution, under its path.

    Attributes:
      mask: "confidence": a pixel is decided where its largest probability is above the
        threshold; "entropy": where its entropy, in nats, is below.
      threshold: For that.
      learn_lambda: Whether every masked convolution has a lambda that is trained;
        otherwise it is 3.
    """

    mask: str = "confidence"
    threshold: float = 0.998
    learn_lambda: bool = False

    def run_stem(self, x: Any, train: bool = False) -> Carry:
        return {"maps": super().run_stem(x, train)}

    def run_stage(self, k: int, carry: Carry, train: bool = False) -> Carry:
        before = carry.get("logits")
        if before is None:
            maps = super().run_stage(k, carry["maps"], train)
            return {"maps": maps, "logits": super().run_head(k, maps, train)}
        mask_at = functools.partial(undecided, before, self.mask, self.threshold)
        with nn.intercept_methods(self._masking(mask_at)):
            maps = super().run_stage(k, carry["maps"], train)
            logits = super().run_head(k, maps, train)
        open_ = mask_at(logits.shape[1:3])[..., None]
        return {"maps": maps, "logits": jnp.where(open_, logits, before)}

    def run_head(self, k: int, carry: Carry, train: bool = False) -> jax.Array:
        return carry["logits"]

    def run_features(self, k: int, carry: Carry) -> jax.Array:
        return super().run_features(k, carry["maps"])

    def run_heads(self, carries: Any, train: bool = False) -> jax.Array:
        if train:
            raise UserError(
                "the heads of a masked network cannot be trained alone, for its masks "
                "come from them; train those of model.options.mask='none'"
            )
        return super().run_heads(carries)

    def _masking(self, mask_at: Callable[[Size], jax.Array]) -> Callable[..., Any]:
        """Returns an interceptor that masks convolutions."""

        def masked(next_fn, args, kwargs, context):
            y = next_fn(*args, **kwargs)
            if not is_convolution(context):
                return y
            lam = self._lambda(context.module.path) if self.learn_lambda else LAMBDA
            return fill(y, mask_at(y.shape[1:3]), lam)

        return masked

    def _lambda(self, path: tuple[str, ...]) -> jax.Array:
        path = (*path[len(self.path) :], "lambda")
        if not self.is_initializing():
            tree = self.get_variable("params", "lambdas")
            return functools.reduce(lambda node, name: node[name], path, tree)
        known = {}
        if self.has_variable("params", "lambdas"):
            known = traverse_util.flatten_dict(self.get_variable("params", "lambdas"))
        known[path] = jnp.full((), LAMBDA)
        self.put_variable("params", "lambdas", traverse_util.unflatten_dict(known))
        return known[path]


def is_convolution(context: nn.module.InterceptorContext) -> bool:
    """Tells whether an intercepted call is that of a convolution."""
    return isinstance(context.module, Conv) and context.method_name == "__call__"


def undecided(logits: jax.Array, mask: str, threshold: float, size: Size) -> jax.Array:
    """Tells which pixels of maps of any size are still to be computed.

    Args:
      logits: Of an exit, ``[B, H, W, C]``.
      mask: "confidence" or "entropy", see ``Masked``.
      threshold: A pixel at the threshold is undecided.
      size: Height h and width w of the maps; pixel i reads logits at floor(i H / h).

    Returns:
      True where undecided, ``[B, h, w]``. No gradient passes.
    """
    rows, columns = (
        np.arange(new) * old // new
        for old, new in zip(logits.shape[1:3], size, strict=True)
    )
    logits = jax.lax.stop_gradient(logits)
    probs = jax.nn.softmax(logits[:, rows][:, :, columns])
    if mask == "confidence":
        return probs.max(-1) <= threshold
    return jax.scipy.special.entr(probs).sum(-1) >= threshold


def fill(y: jax.Array, mask: jax.Array, lam: jax.Array | float) -> jax.Array:
    """Replaces decided pixels by a mean of the undecided ones around.

    Args:
      y: Maps, ``[B, H, W, C]``.
      mask: True where ``y`` is kept, ``[B, H, W]``.
      lam: How fast weights fall with distance, a scalar.

    Returns:
      ``m y + (1 - m) K(m y)``, like ``y``; K is 0 where nothing around is kept.
    """
    mask = mask[..., None]
    known = jnp.where(mask, y, jnp.zeros((), y.dtype))
    return jnp.where(mask, y, _around(known, lam))


def _around(x: jax.Array, lam: jax.Array | float) -> jax.Array:
    """Computes K: rows first, then columns, as exp(-lambda^2 d^2) is a product.

    The centre is never added, as taking it off again would lose the small weights.
    """
    weights = [jnp.exp(-(jnp.square(lam) * d * d)) for d in range(1, REACH + 1)]
    rows = _beside(x, 2, weights)
    total = rows + _beside(x + rows, 1, weights)
    side = 2 * sum(weights)
    scale = 1 / (side * (2 + side) + 1e-5)  # (1 + side)^2 - 1: all but the centre
    return total * jnp.asarray(scale, x.dtype)


def _beside(x: jax.Array, axis: int, weights: list[jax.Array]) -> jax.Array:
    """Sums the pixels on both sides along an axis, weighted by distance."""
    length = x.shape[axis]
    wide = jnp.pad(x, [(REACH, REACH) if i == axis else (0, 0) for i in range(x.ndim)])
    cut = functools.partial(jax.lax.slice_in_dim, wide, axis=axis)
    pairs = []
    for d, weight in enumerate(weights, 1):
        before, after = REACH - d, REACH + d
        pair = cut(before, before + length) + cut(after, after + length)
        pairs.append(pair * jnp.asarray(weight, x.dtype))
    return sum(pairs[1:], pairs[0])
