"""Losses and hits where every pixel has a class (BACKBONES 4.3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from eenet_jax.data.map_records import VOID
from eenet_jax.map_inference import resize_logits


def pixel_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: Sequence[float] = (),
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Computes the cross-entropy of every exit over the pixels that have a class.

    The logits are resized to the label maps. A pixel weighs as much as its class, and
    one that is void nothing. The mean over samples of what is returned is the weighted
    mean over all pixels of the batch, so samples with few labelled pixels count less.

    Args:
      logits: ``[K, B, h, w, C]``.
      labels: uint8 ``[B, H, W]``: 0..C-1 or ``VOID``.
      class_weights: C numbers; () for 1 each.
      label_smoothing: In [0, 1): the share of the target spread over all classes.

    Returns:
      ``[K, B]``, in nats.
    """
    num_classes = logits.shape[-1]
    known = labels != VOID
    labels = jnp.where(known, labels, 0).astype(jnp.int32)
    weights = jnp.asarray(class_weights or (1.0,) * num_classes)[labels] * known

    def of_exit(logits):
        log_probs = jax.nn.log_softmax(resize_logits(logits, labels.shape[1:]))
        hit = jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
        loss = -(1 - label_smoothing) * hit - label_smoothing * log_probs.mean(-1)
        return jnp.sum(weights * loss, axis=(1, 2))

    losses = jnp.stack([of_exit(each) for each in logits])
    return losses * len(labels) / jnp.maximum(weights.sum(), 1e-6)


def pixel_hits(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the share of labelled pixels that each exit gets right, roughly.

    Each logit is compared with the label in the middle of the pixels it stands for.

    Args:
      logits: ``[K, B, h, w, C]``.
      labels: uint8 ``[B, H, W]``.

    Returns:
      ``[K]``.
    """
    height, width = logits.shape[2:4]
    rows = (2 * jnp.arange(height) + 1) * labels.shape[1] // (2 * height)
    columns = (2 * jnp.arange(width) + 1) * labels.shape[2] // (2 * width)
    labels = labels[:, rows][:, :, columns]
    right = (logits.argmax(-1) == labels[None]) & (labels != VOID)[None]
    return right.sum(axis=(1, 2, 3)) / jnp.maximum((labels != VOID).sum(), 1)
