"""What can be known to be wrong before anything is computed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError
from eenet_jax.runtime.bundle_inputs import refuse_not_finite
from eenet_jax.schedulers.policy import Policy


def check_policy(backbone: Backbone, policy: Policy) -> None:
    """Refuses a policy for other exits or classes than the network's.

    Raises:
      UserError: Naming both.
    """
    if policy.num_exits != backbone.num_exits:
        raise UserError(
            f"the policy has {policy.num_exits} exits, the network {backbone.name!r} "
            f"{backbone.num_exits}; fit the policy on predictions of this network"
        )
    if policy.num_classes not in (None, backbone.num_classes):
        raise UserError(
            f"the policy was fitted for {policy.num_classes} classes, the network "
            f"{backbone.name!r} has {backbone.num_classes}; fit the policy on "
            "predictions of this network"
        )


def check_inputs(backbone: Backbone, x: Any, *, finite: bool = True) -> int:
    """Refuses inputs of another kind, shape or type than the network reads.

    Args:
      backbone: The network.
      x: A batch of inputs, or what stands for them while JAX traces.
      finite: Whether to look at the values: for NaN and infinity, or unknown ids.

    Returns:
      B, the number of samples.

    Raises:
      UserError: Saying what is wrong.
    """
    if backbone.input_kind == "text":
        return _check_text(backbone, x, finite)
    if isinstance(x, Mapping) or np.ndim(x) != 4 or x.shape[-1] != 3 or 0 in x.shape:
        got = "a mapping" if isinstance(x, Mapping) else f"shape {list(np.shape(x))}"
        raise UserError(
            f"{backbone.name!r} reads images, float32 [B, H, W, 3], normalised; x is "
            f"{got}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"x is {x.dtype}; {backbone.name!r} reads float32, pixels / 255 minus the "
            "data set's mean, divided by its deviation"
        )
    if finite and not isinstance(x, jax.core.Tracer):
        wrong = ~np.isfinite(x) if isinstance(x, np.ndarray) else ~jnp.isfinite(x)
        refuse_not_finite(np.asarray(wrong.any(axis=(1, 2, 3))))
    return len(x)


def _check_text(backbone: Backbone, x: Any, values: bool) -> int:
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x):
        raise UserError(
            f'{backbone.name!r} reads texts, {{"ids": int32 [B, T], "mask": [B, T]}}'
        )
    ids, mask = x["ids"], x["mask"]
    if np.ndim(ids) != 2 or np.shape(ids) != np.shape(mask) or 0 in np.shape(ids):
        raise UserError(
            f'x["ids"] has shape {list(np.shape(ids))} and x["mask"] '
            f"{list(np.shape(mask))}; both must be [B, T]"
        )
    if values and not isinstance(ids, jax.core.Tracer):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= backbone.vocab_size:
            raise UserError(
                f'x["ids"] has {low if low < 0 else high}, but the network knows ids '
                f"0 to {backbone.vocab_size - 1}; use the tokenizer of its checkpoint"
            )
    return len(ids)
