"""Scores and forecasts of policies that skip exits: what an exit tells, what is next.

The trail holds each sample's ``target``: the exit that is tested next. An exit that is
not a sample's target does not see it, and the last sees all.
"""

from typing import Any

import jax
import jax.numpy as jnp

from eenet_jax.schedulers import predictive
from eenet_jax.schedulers.confidence import dense_design, own_features

Trail = dict[str, jax.Array]


def init_trail(params: Any, batch: int) -> Trail:
    """Returns the trail of samples whose first test is at ``params["start"]``."""
    start = jnp.asarray(params["start"], jnp.int32)
    return {"target": jnp.broadcast_to(start, batch)}


def asks(params: Any, k: int, trail: Trail) -> jax.Array:
    """Returns who is tested at exit ``k``, bool ``[B]``."""
    target = trail["target"]
    return jnp.ones_like(target, bool) if k == num_tested(params) else target == k


def num_tested(params: Any) -> int:
    """Returns E = K - 1: all exits but the last are tested."""
    names = ("following", "bounds", "mean")
    return next(len(params[name]) for name in names if name in params)


def fixed(params: Any, k: int, logits: jax.Array, trail: Trail):
    """Scores by max|z|; the next target is the one planned for this exit.

    Args:
      params: ``start`` ``[]`` and ``following`` ``[E]``, int32.
      k: Exit, at most E.
      logits: ``[B, C]``.
      trail: See ``init_trail``.

    Returns:
      Scores ``[B]`` and the new trail.
    """
    score = predictive.strength(logits)
    if k == num_tested(params):
        return score, trail
    return score, {"target": jnp.full_like(trail["target"], params["following"][k])}


def published(params: Any, k: int, logits: jax.Array, trail: Trail):
    """Scores by max|z|; the sample's logits say which exit is next, as published.

    ``params`` has ``start`` and the arguments of ``predictive.next_exits``: ``bounds``
    ``[E]``, ``rounds`` ``[]`` and ``past_last`` ``[]``.
    """
    score = predictive.strength(logits)
    if k == num_tested(params):
        return score, trail
    strengths = predictive.forecast_strengths(logits, predictive.MAX_ROUNDS)
    found = predictive.next_exits(
        strengths, params["bounds"][None], k, params["rounds"], params["past_last"]
    )
    return score, {"target": found[0]}


def learned(params: Any, k: int, logits: jax.Array, trail: Trail):
    """Scores by the advantage of leaving over the best exit to test next.

    Args:
      params: Of the design (``confidence.dense_design``), ``weights`` ``[E, W, K]`` and
        ``start`` int32 ``[]``.
      k: Exit, at most E.
      logits: ``[B, C]``.
      trail: See ``init_trail``.

    Returns:
      Scores ``[B]`` and the new trail.
    """
    if k == num_tested(params):
        return jnp.zeros(len(logits), jnp.float32), trail
    score, target = least_advantage(params, k, own_features(logits))
    return score, {"target": target}


def least_advantage(
    params: Any, k: int | jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns how much better it is to leave at exit ``k`` than to test a later one.

    Args:
      params: See ``learned``.
      k: Exit, less than E.
      x: Confidence features of the exit, ``[B, D]``.

    Returns:
      The advantage over the best of the later exits, ``[B]``, and which that is, int32.
    """
    later = jnp.arange(params["weights"].shape[-1]) > k
    advantages = dense_design(params, k, x) @ params["weights"][k]
    advantages = jnp.where(later[None], advantages, jnp.inf)
    return advantages.min(axis=-1), jnp.argmin(advantages, axis=-1).astype(jnp.int32)
