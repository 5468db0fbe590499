"""What maps of logits say of images, and how right they are; on the device."""

import jax
import jax.numpy as jnp

from eenet_jax.data.map_records import VOID


def resize_logits(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes maps of logits bilinearly (half-pixel centres) to a height and width.

    Args:
      logits: ``[..., h, w, C]``.
      size: H and W.

    Returns:
      ``[..., H, W, C]``.
    """
    shape = (*logits.shape[:-3], *size, logits.shape[-1])
    return jax.image.resize(logits, shape, "bilinear", antialias=False)


def confusion(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Counts the pixels of every image by class and answer.

    Answers are those of the logits enlarged to the labels (bilinear, half-pixel
    centres); pixels that are void do not count.

    Args:
      logits: Of K exits, ``[K, B, h, w, C]``.
      labels: uint8 ``[B, H, W]``: 0..C-1 or ``VOID``.

    Returns:
      int32 ``[K, B, C, C]``; ``[k, b, i, j]`` pixels of class i are answered with j.
    """
    num_classes = logits.shape[-1]
    known = labels != VOID
    rows = jnp.where(known, labels, num_classes).astype(jnp.int32) * num_classes

    def of_image(logits: jax.Array, rows: jax.Array) -> jax.Array:
        cells = rows + resize_logits(logits, rows.shape).argmax(-1)
        # Void pixels are counted in rows behind the last class.
        counts = jnp.bincount(cells.ravel(), length=num_classes * (num_classes + 1))
        return counts[: num_classes**2].reshape(num_classes, num_classes)

    def of_exit(logits: jax.Array) -> jax.Array:
        return jax.lax.map(lambda pair: of_image(*pair), (logits, rows))

    return jnp.stack([of_exit(each) for each in logits]).astype(jnp.int32)
