"""Objectives over all exits of a batch; every loss returns one value per sample."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from eenet_jax.training.map_losses import pixel_cross_entropy

DISTILL_FORMS = ("per_sample", "published")


def exit_weights(num_exits: int) -> jax.Array:
    """Returns the published weights of the exits' losses, shape ``[K]``.

    w_j = j / (K (K + 1)) for j = 1..K (EENet); they sum to 1/2.
    """
    j = jnp.arange(1, num_exits + 1, dtype=jnp.float32)
    return j / (num_exits * (num_exits + 1))


def cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Computes the cross-entropy of every exit.

    Args:
      logits: Shape ``[K, B, C]``.
      labels: int32 ``[B]``, each in 0..C-1.
      label_smoothing: In [0, 1): the share of the target spread over all classes.

    Returns:
      Shape ``[K, B]``, in nats.
    """
    log_probs = jax.nn.log_softmax(logits)
    index = jnp.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
    hit = jnp.take_along_axis(log_probs, index, axis=-1)[..., 0]
    return -(1 - label_smoothing) * hit - label_smoothing * log_probs.mean(-1)


def exit_losses(
    logits: jax.Array,
    labels: jax.Array,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes the cross-entropy of every exit, ``[K, B]``, of classes or maps.

    See ``cross_entropy`` and ``pixel_cross_entropy``.
    """
    if labels.ndim == 1:
        return cross_entropy(logits, labels, label_smoothing)
    return pixel_cross_entropy(
        logits, labels, class_weights=class_weights, label_smoothing=label_smoothing
    )


def distillation(
    logits: jax.Array, temperature: float, form: str = "per_sample"
) -> jax.Array:
    """Computes T^2 KL(last exit || exit j), summed over the early exits.

    "per_sample" stops the gradient at the last exit (the teacher). "published" is the
    literal form of the EENet code: the mean over samples and classes, so a C-th of
    the former, and the teacher learns too.

    Args:
      logits: Shape ``[K, B, C]``.
      temperature: T > 0, divides the logits of both.
      form: "per_sample" or "published".

    Returns:
      Shape ``[B]``, >= 0.
    """
    log_probs = jax.nn.log_softmax(logits / temperature)
    teacher, students = log_probs[-1:], log_probs[:-1]
    if form == "per_sample":
        teacher = jax.lax.stop_gradient(teacher)
    divergence = jnp.sum(jnp.exp(teacher) * (teacher - students), axis=(0, 2))
    if form == "published":
        divergence = divergence / logits.shape[-1]
    return temperature**2 * divergence


def joint_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weights: Sequence[float] = (),
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] = (),
    distill_weight: jax.Array | float = 0.0,
    distill_temperature: float = 3.0,
    distill_form: str = "per_sample",
) -> jax.Array:
    """Computes the joint objective of all exits (EENet, BACKBONES 1.6).

    sum_j w_j CE_j + distill_weight * T^2 sum_{j<K} KL(exit K || exit j).

    Args:
      logits: Shape ``[K, B, C]``, or ``[K, B, h, w, C]`` where labels are maps.
      labels: int32 ``[B]``, or maps uint8 ``[B, H, W]``.
      weights: w_j, K of them; () for the published ones (see ``exit_weights``).
      label_smoothing: See ``cross_entropy``.
      class_weights: Of label maps, see ``pixel_cross_entropy``.
      distill_weight: 0 until late in training; may be traced.
      distill_temperature: T.
      distill_form: See ``distillation``.

    Returns:
      Shape ``[B]``.
    """
    losses = exit_losses(logits, labels, label_smoothing, class_weights)  # [K, B]
    of_exits = jnp.asarray(weights) if weights else exit_weights(logits.shape[0])
    joint = jnp.einsum("k,kb->b", of_exits, losses)
    if labels.ndim == 1:
        extra = distillation(logits, distill_temperature, distill_form)
    else:  # the mean over all places of a map
        num_exits, batch, *_, num_classes = logits.shape
        places = logits.reshape(num_exits, -1, num_classes)
        extra = distillation(places, distill_temperature, distill_form)
        extra = extra.reshape(batch, -1).mean(axis=1)
    return joint + distill_weight * extra
