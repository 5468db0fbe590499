"""Label maps: a class for every pixel, and augmentation of both on the device.

A label map is uint8 ``[H, W]``: classes 0..C-1, and ``VOID`` where a pixel has none,
which losses and metrics leave out.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from eenet_jax.data.map_records import VOID


def augment(
    images: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    crop: Sequence[int] = (),
    scale: Sequence[float] = (),
    flip: bool = False,
    mean: Sequence[float],
) -> tuple[jax.Array, jax.Array]:
    """Scales, crops and mirrors images and their label maps alike.

    Each image is enlarged by a factor drawn from ``scale``, and a window is cut out at
    random; where the image is smaller than the window, it lies in it at random. Images
    are read bilinearly, labels from the nearest pixel. Around the image are its mean
    and void.

    Args:
      images: uint8 ``[B, H, W, 3]``.
      labels: uint8 ``[B, H, W]``.
      key: Of this batch.
      crop: Height and width of the window; () for those of the image.
      scale: Lowest and highest factor; () for 1.
      flip: Mirrors left-right with probability 1/2.
      mean: Per channel, in [0, 1]: the colour around the image.

    Returns:
      uint8 ``[B, h, w, 3]`` and ``[B, h, w]``.
    """
    count, height, width, _ = images.shape
    key_scale, key_place, key_flip = jax.random.split(key, 3)
    if flip:
        mirrored = jax.random.bernoulli(key_flip, shape=(count,))
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        labels = jnp.where(mirrored[:, None, None], labels[:, :, ::-1], labels)
    window = tuple(crop) or (height, width)
    if not scale and window == (height, width):
        return images, labels
    low, high = scale or (1.0, 1.0)
    factor = jax.random.uniform(key_scale, (count,), minval=low, maxval=high)
    place = jax.random.uniform(key_place, (count, 2))
    filling = jnp.round(255 * jnp.asarray(mean, jnp.float32))

    def one(image, label, factor, place):
        rows = _positions(window[0], height, factor, place[0])
        columns = _positions(window[1], width, factor, place[1])
        inside = _within(rows, height)[:, None] & _within(columns, width)[None]
        pixels = _lerp(image.astype(jnp.float32), rows, axis=0)
        pixels = _lerp(pixels, columns, axis=1)
        pixels = jnp.where(inside[..., None], pixels, filling[None, None])
        nearest = label[_nearest(rows, height)][:, _nearest(columns, width)]
        found = jnp.where(inside, nearest, VOID).astype(jnp.uint8)
        return jnp.round(pixels).astype(jnp.uint8), found

    return jax.vmap(one)(images, labels, factor, place)


def _positions(
    size: int, length: int, factor: jax.Array, place: jax.Array
) -> jax.Array:
    """Returns where ``size`` pixels of a window lie on an axis of ``length`` pixels.

    Pixel centres are at whole numbers. A window that is larger than the enlarged axis
    begins before it, by a share ``place`` of the room that is left.
    """
    start = place * (length - size / factor)
    return start + (jnp.arange(size) + 0.5) / factor - 0.5


def _within(positions: jax.Array, length: int) -> jax.Array:
    return (positions >= -0.5) & (positions < length - 0.5)


def _nearest(positions: jax.Array, length: int) -> jax.Array:
    return jnp.clip(jnp.round(positions).astype(jnp.int32), 0, length - 1)


def _lerp(values: jax.Array, positions: jax.Array, axis: int) -> jax.Array:
    """Reads an axis at positions between its entries, flat beyond its ends."""
    length = values.shape[axis]
    positions = jnp.clip(positions, 0, length - 1)
    first = jnp.minimum(positions.astype(jnp.int32), max(length - 2, 0))
    second = jnp.minimum(first + 1, length - 1)
    share = (positions - first).reshape(-1, *[1] * (values.ndim - axis - 1))
    start = jnp.take(values, first, axis=axis)
    end = jnp.take(values, second, axis=axis)
    share = share.reshape((1,) * axis + share.shape)
    return start + share * (end - start)
