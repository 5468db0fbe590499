"""Images on the device: augmentation and normalisation, pure and jittable.

Randomness is drawn for the whole batch from one key, so a sample's augmentation depends
on the key and on its place in the batch, not on how many devices share the batch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from eenet_jax.errors import UserError


def augment(
    images: jax.Array,
    *,
    key: jax.Array,
    rotation: float = 0.0,
    crop_padding: int = 0,
    flip: bool = False,
    cutout: int = 0,
    mean: Sequence[float] | None = None,
) -> jax.Array:
    """Applies random rotation, crop, horizontal flip and cutout, in this order.

    Args:
      images: uint8 ``[B, H, W, C]``.
      key: Key of this batch.
      rotation: Degrees; each image is turned about its centre by an angle drawn between
        minus and plus this. Nearest pixels, black outside; 0 for none.
      crop_padding: Black pixels (zeros before normalisation) added on every side
        before a window of H x W is cut out at random; 0 for no crop.
      flip: Mirrors each image left-right with probability 1/2.
      cutout: Side, in pixels, of a square blanked around a uniformly drawn pixel and
        cut off at the borders (DeVries and Taylor 2017); 0 for none.
      mean: The data set's mean per channel, in [0, 1]. The square is filled with it, so
        that it is zero after normalisation, to half a grey level. Needed by cutout.

    Returns:
      uint8 ``[B, H, W, C]``.

    Raises:
      UserError: If the images are not uint8 ``[B, H, W, C]``, a size is negative, or
        cutout has no mean.
    """
    _check_images(images)
    if crop_padding < 0 or cutout < 0 or rotation < 0:
        raise UserError(
            f"crop_padding={crop_padding}, cutout={cutout} and rotation={rotation} "
            "must not be negative; 0 turns each off"
        )
    key_crop, key_flip, key_cutout = jax.random.split(key, 3)
    if rotation:
        images = _rotate(images, rotation, jax.random.fold_in(key, 3))
    if crop_padding:
        images = _random_crop(images, crop_padding, key_crop)
    if flip:
        mirrored = jax.random.bernoulli(key_flip, shape=images.shape[:1])
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1, :], images)
    if cutout:
        if mean is None:
            raise UserError(f"cutout={cutout} needs mean, the data set's, as filling")
        images = _cutout(images, cutout, mean, key_cutout)
    return images


def normalise(
    images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Scales to [0, 1], then to zero mean and unit variance, in three channels.

    Args:
      images: uint8 ``[B, H, W, C]``, C = 1 or 3. One channel is repeated.
      mean: Mean per channel in [0, 1], C values.
      std: Standard deviation per channel in [0, 1], C values.

    Returns:
      float32 ``[B, H, W, 3]``.

    Raises:
      UserError: If the images are not uint8 ``[B, H, W, C]``, C is neither 1 nor 3, or
        mean or std do not have C values.
    """
    _check_images(images)
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise UserError(
            f"images have {channels} channels, must have 1 or 3 (shape {images.shape})"
        )
    x = images.astype(jnp.float32) / 255
    x = (x - _per_channel("mean", mean, channels)) / _per_channel("std", std, channels)
    return x if channels == 3 else jnp.repeat(x, 3, axis=-1)


def _rotate(images: jax.Array, degrees: float, key: jax.Array) -> jax.Array:
    batch, height, width, _ = images.shape
    angles = jnp.deg2rad(degrees) * jax.random.uniform(key, (batch,), minval=-1.0)
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.mgrid[:height, :width], axis=-1)  # [H, W, 2]
    offsets = grid - centre[None, None]

    def turned(image: jax.Array, angle: jax.Array) -> jax.Array:
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.array([[cos, -sin], [sin, cos]])
        source = jnp.round(offsets @ turn + centre[None, None]).astype(jnp.int32)
        rows, columns = source[..., 0], source[..., 1]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        pixels = image[jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)]
        return jnp.where(inside[..., None], pixels, 0).astype(image.dtype)

    return jax.vmap(turned)(images, angles)


def _random_crop(images: jax.Array, padding: int, key: jax.Array) -> jax.Array:
    batch = images.shape[0]
    sides = (padding, padding)
    padded = jnp.pad(images, ((0, 0), sides, sides, (0, 0)))
    corners = jax.random.randint(key, (batch, 2), 0, 2 * padding + 1)

    def window(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], 0)
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(window)(padded, corners)


def _cutout(
    images: jax.Array, size: int, mean: Sequence[float], key: jax.Array
) -> jax.Array:
    batch, height, width, channels = images.shape
    key_row, key_column = jax.random.split(key)
    rows = _span(key_row, batch, height, size)  # [B, H]
    columns = _span(key_column, batch, width, size)  # [B, W]
    square = rows[:, :, None, None] & columns[:, None, :, None]
    fill = jnp.round(255 * _per_channel("mean", mean, channels)).astype(jnp.uint8)
    return jnp.where(square, fill, images)


def _span(key: jax.Array, batch: int, length: int, size: int) -> jax.Array:
    """Marks ``size`` pixels around a drawn one, clipped to the image; [B, length]."""
    start = jax.random.randint(key, (batch, 1), 0, length) - size // 2
    pixel = jnp.arange(length)[None]
    return (pixel >= start) & (pixel < start + size)


def _per_channel(name: str, values: Sequence[float], channels: int) -> jax.Array:
    array = jnp.asarray(values, jnp.float32)
    if array.shape != (channels,):
        raise UserError(
            f"{name}={tuple(values)} must have one value for each of the {channels} "
            "channels of the images"
        )
    return array[None, None, None, :]


def _check_images(images: jax.Array) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise UserError(
            f"images are {images.dtype} of shape {images.shape}; must be uint8 of "
            "shape [B, H, W, C], not yet normalised"
        )
