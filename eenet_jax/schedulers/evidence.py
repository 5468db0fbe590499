"""What an exit says of a sample, and confidence scores made from it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eenet_jax.errors import UserError

Lazy = jax.Array | Callable[[], jax.Array] | None
SUREST = 1 - 1e-6  # mean probabilities above this count as this, for their log-odds


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The outputs of one exit for a batch, computed only when they are read.

    Either may be given as a function without arguments; a compiled program then runs
    the head only where a policy asks for its logits.

    Attributes:
      lazy_logits: float32 ``[B, C]``; of maps, logarithms of the mean probabilities.
      lazy_features: Exit features ``[B, D]``, for gates that read them.
      lazy_confidence: Of maps, the mean over pixels of the largest probability,
        ``[B]``; None where a sample has one class.
    """

    lazy_logits: Lazy = None
    lazy_features: Lazy = None
    lazy_confidence: Lazy = None

    @property
    def logits(self) -> jax.Array:
        """float32 ``[B, C]``."""
        return _value(self.lazy_logits, "logits")

    @property
    def features(self) -> jax.Array:
        """``[B, D]``."""
        return _value(self.lazy_features, "exit features")

    @property
    def confidence(self) -> jax.Array | None:
        """``[B]`` of maps, else None."""
        lazy = self.lazy_confidence
        return lazy() if callable(lazy) else lazy


def _value(lazy: Lazy, what: str) -> jax.Array:
    if lazy is None:
        raise UserError(f"this policy reads {what}, which are not given")
    return lazy() if callable(lazy) else lazy


def pooled(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what maps of logits say of their images (BACKBONES 4.4).

    Args:
      logits: ``[..., h, w, C]``.

    Returns:
      Logarithms of the mean over pixels of the class probabilities, ``[..., C]``, and
      the mean of the largest one, ``[...]``.
    """
    log_probs = jax.nn.log_softmax(logits)
    places = logits.shape[-3] * logits.shape[-2]
    mean = jax.nn.logsumexp(log_probs, axis=(-3, -2)) - jnp.log(float(places))
    return mean, jnp.exp(log_probs.max(axis=-1)).mean(axis=(-2, -1))


def max_prob(logits: jax.Array, confidence: jax.Array | None = None) -> jax.Array:
    """Returns the largest class probability, in [1/C, 1]; ``[..., C] -> [...]``.

    Of maps it is ``confidence`` instead, if that is given.
    """
    if confidence is not None:
        return confidence
    return jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1))


def entropy_confidence(logits: jax.Array) -> jax.Array:
    """Returns 1 + sum p log p / log C, in [0, 1]; ``[..., C] -> [...]``.

    It is 1 for a certain answer and 0 for a uniform one. Finite where p is 0 exactly.
    """
    log_probs = jax.nn.log_softmax(logits)
    negative_entropy = jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return 1 + negative_entropy / jnp.log(logits.shape[-1])


def log_odds(
    logits: jax.Array,
    confidence: jax.Array | None = None,
    limit: float = 20.0,
) -> jax.Array:
    """Returns log(p / (1 - p)) of the largest probability p; ``[..., C] -> [...]``.

    Computed from the other classes' logits, so that it still tells samples apart where
    p rounds to 1.

    Args:
      logits: Shape ``[..., C]``.
      confidence: Of maps, p instead, ``[...]``.
      limit: Bounds the result to [-limit, limit].
    """
    if confidence is not None:
        p = jnp.clip(confidence, 1 - SUREST, SUREST)
        return jnp.log(p) - jnp.log1p(-p)
    log_probs = jax.nn.log_softmax(logits)
    top = jnp.argmax(log_probs, axis=-1, keepdims=True)
    is_top = jnp.arange(logits.shape[-1]).reshape((1,) * (logits.ndim - 1) + (-1,))
    others = jnp.where(is_top == top, -jnp.inf, log_probs)
    rest = jax.nn.logsumexp(others, axis=-1)
    return jnp.clip(jnp.max(log_probs, axis=-1) - rest, -limit, limit)
