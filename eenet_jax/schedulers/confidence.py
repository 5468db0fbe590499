"""Confidence features of an exit: what it says, and how that fits what was said before.

The features of DESIGN section 3, of fixed number so that exits stack; places for exits
that are still to come hold 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eenet_jax.schedulers.evidence import entropy_confidence, log_odds, max_prob

OWN = 6  # features of the exit itself
SHARED = 4  # features it shares with each earlier exit
LOWEST = -15.0  # log-probabilities below this count as this


class Features(NamedTuple):
    """What all exits but the last say of N samples.

    Attributes:
      x: Confidence features, ``[K-1, N, D]``.
      answers: Classes answered, int32 ``[K-1, N]``.
      num_classes: C.
    """

    x: jax.Array
    answers: jax.Array
    num_classes: int


def num_features(num_exits: int) -> int:
    """Returns D for K exits."""
    return OWN + SHARED * (num_exits - 1)


def init_trail(batch: int, num_exits: int, num_classes: int) -> dict[str, jax.Array]:
    """Returns the trail of samples that no exit has seen, leaves ``[B, K-1, ...]``."""
    shape = (batch, num_exits - 1)
    return {
        "log_probs": jnp.zeros((*shape, num_classes), jnp.float32),
        "answer": jnp.full(shape, -1, jnp.int32),
        "log_odds": jnp.zeros(shape, jnp.float32),
        "entropy": jnp.zeros(shape, jnp.float32),
    }


def own_features(logits: jax.Array, confidence: jax.Array | None = None) -> jax.Array:
    """Returns how sure an exit is, ``[B, C] -> [B, OWN]``; see ``features``."""
    log_probs = jnp.maximum(jax.nn.log_softmax(logits), LOWEST)
    best, _ = jax.lax.top_k(log_probs, min(3, logits.shape[-1]))
    third = best[:, 2] if best.shape[1] > 2 else jnp.full_like(best[:, 0], LOWEST)
    margin = jnp.exp(best[:, 0]) - jnp.exp(best[:, 1])
    sure = log_odds(logits, confidence) / 4, max_prob(logits, confidence)
    own = [*sure, entropy_confidence(logits)]
    return jnp.stack([*own, margin, best[:, 1] / 4, third / 4], axis=1)


def features(
    k: int,
    logits: jax.Array,
    trail: dict[str, jax.Array],
    confidence: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Computes the features of exit ``k``.

    Log-odds of max p, max p, 1 - normalised entropy, the margin to the second class,
    and the logarithms of the second and third probability; then for each earlier exit
    whether it agrees, its log-odds, its entropy, and the log-probability that it gave
    the present answer. Log-odds and logarithms are divided by 4.

    Args:
      k: Exit, 0-based.
      logits: ``[B, C]``.
      trail: What ``init_trail`` or this function returned for the exit before.
      confidence: Of maps, in place of max p, ``[B]``.

    Returns:
      Features ``[B, D]``, the answer int32 ``[B]``, and the new trail.
    """
    log_probs = jnp.maximum(jax.nn.log_softmax(logits), LOWEST)
    answer = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    own = own_features(logits, confidence)
    before = (jnp.arange(trail["answer"].shape[1]) < k)[None]
    place = jnp.broadcast_to(answer[:, None, None], (*trail["answer"].shape, 1))
    said = jnp.take_along_axis(trail["log_probs"], place, axis=-1)[..., 0] / 4
    agrees = (trail["answer"] == answer[:, None]).astype(jnp.float32)
    shared = [agrees, trail["log_odds"], trail["entropy"], said]
    shared = [jnp.where(before, value, 0.0) for value in shared]

    if k < trail["answer"].shape[1]:
        trail = {
            "log_probs": trail["log_probs"].at[:, k].set(log_probs),
            "answer": trail["answer"].at[:, k].set(answer),
            "log_odds": trail["log_odds"].at[:, k].set(own[:, 0]),
            "entropy": trail["entropy"].at[:, k].set(own[:, 2]),
        }
    return jnp.concatenate([own, *shared], axis=1), answer, trail


def all_features(logits: jax.Array, confidence: jax.Array | None = None) -> Features:
    """Computes the features of saved predictions ``[K, N, C]``, of maps ``[K, N]``."""
    num_exits, num_samples, num_classes = logits.shape
    trail = init_trail(num_samples, num_exits, num_classes)
    xs, answers = [], []
    for k in range(num_exits - 1):
        sure = None if confidence is None else confidence[k]
        x, answer, trail = features(k, logits[k], trail, sure)
        xs.append(x)
        answers.append(answer)
    return Features(jnp.stack(xs), jnp.stack(answers), num_classes)


def design_params(
    x: jax.Array, units: jax.Array, offsets: jax.Array
) -> dict[str, jax.Array]:
    """Returns the parameters of ``dense_design`` for these features.

    Args:
      x: Confidence features, ``[K-1, N, D]``.
      units: Standard normal draws, ``[K-1, D, R]``.
      offsets: Likewise, ``[K-1, R]``.
    """
    std = x.std(axis=1)
    live = std > 1e-6  # places of exits to come are not
    fan_in = jnp.maximum(live.sum(axis=1), 1)[:, None, None]
    return {
        "mean": x.mean(axis=1),
        "std": jnp.where(live, std, 1.0),
        "units": units * live[:, :, None] / jnp.sqrt(fan_in),
        "offsets": offsets,
    }


def dense_design(
    shared: dict[str, jax.Array], k: int | jax.Array, x: jax.Array
) -> jax.Array:
    """Returns [1 ; z ; tanh(z U + u)] of features x, with z the standardised ones.

    Args:
      shared: ``mean`` and ``std`` ``[K-1, D]``, ``units`` ``[K-1, D, R]``, ``offsets``
        ``[K-1, R]``.
      k: Exit.
      x: Confidence features of the exit, ``[B, D]``.

    Returns:
      ``[B, 1 + D + R]``.
    """
    z = (x - shared["mean"][k][None]) / shared["std"][k][None]
    hidden = jnp.tanh(z @ shared["units"][k] + shared["offsets"][k][None])
    return jnp.concatenate([jnp.ones_like(z[:, :1]), z, hidden], axis=1)


def advantage(
    params: dict[str, jax.Array], k: int, x: jax.Array, answer: jax.Array
) -> jax.Array:
    """Returns the advantage of stopping at exit ``k < K-1`` over going on, ``[B]``.

    Args:
      params: The shared ones, ``weights`` ``[K-1, 1 + D + R]``, and for every class a
        ``bias`` and a ``slope`` on the log-odds, ``[K-1, C]``.
      k: Exit.
      x: Confidence features, ``[B, D]``.
      answer: Class answered, int32 ``[B]``.
    """
    dense = dense_design(params, k, x)
    of_class = params["bias"][k][answer] + params["slope"][k][answer] * dense[:, 1]
    return dense @ params["weights"][k] + of_class
