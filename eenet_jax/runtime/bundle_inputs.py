"""What a bundle is given, checked and made into what its programs read; NumPy only."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from eenet_jax.errors import UserError


def check_images(spec: Mapping[str, Any], x: Any) -> np.ndarray:
    """Refuses what is not images of the size that was exported.

    Args:
      spec: The manifest's "input".
      x: uint8 ``[N, H, W, C]``, pixels with as many channels as the data set's images;
        or float32 ``[N, H, W, 3]``, normalised.

    Returns:
      ``x`` as an array, floating types as float32. Pixels of a data set in grey may
      come with three equal channels.

    Raises:
      UserError: Saying what is wrong.
    """
    height, width, _ = spec["shape"]
    channels = len(spec["mean"])
    form = (
        f"uint8 [N, {height}, {width}, {channels}], pixels, or float32 "
        f"[N, {height}, {width}, 3], normalised"
    )
    if isinstance(x, Mapping):
        raise UserError(f"the bundle reads images, {form}; x is a mapping")
    x = np.asarray(x)
    floating = np.issubdtype(x.dtype, np.floating)
    allowed = {3} if floating else {channels, 3}
    size_fits = x.ndim == 4 and x.shape[1:3] == (height, width)
    if not size_fits or x.shape[3] not in allowed or not (floating or x.dtype == "u1"):
        raise UserError(
            f"the bundle reads images, {form}; x is {x.dtype} of shape {list(x.shape)}"
        )
    if floating:
        x = x.astype(np.float32, copy=False)
        refuse_not_finite(~np.isfinite(x).all(axis=(1, 2, 3)))
    elif x.shape[3] > channels:
        coloured = (x != x[..., :1]).any(axis=(1, 2, 3))
        if coloured.any():
            raise UserError(
                f"sample {coloured.argmax()} is in colour, but the network's images "
                "are grey; convert it"
            )
        x = x[..., :1]
    return x


def normalise(spec: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """Returns float32 ``[B, H, W, 3]`` of what ``check_images`` let through.

    Pixels are scaled to [0, 1], then by the data set's mean and deviation; one channel
    is repeated. ``data.images.normalise`` up to the rounding of compiled divisions.
    """
    if x.dtype == np.float32:
        return x
    mean, std = (np.asarray(spec[name], np.float32) for name in ("mean", "std"))
    x = (x.astype(np.float32) / np.float32(255) - mean) / std
    return x if x.shape[3] == 3 else np.repeat(x, 3, axis=3)


def check_texts(
    spec: Mapping[str, Any], x: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Refuses what is not token ids that the network knows.

    Args:
      spec: The manifest's "input".
      x: ``{"ids": integers [N, T], "mask": [N, T]}``, the mask true on tokens.

    Returns:
      ``ids`` int32 and ``mask`` bool, both ``[N, L]`` with L the longest length bucket,
      and int ``[N]``: which bucket each text is in.

    Raises:
      UserError: Saying what is wrong.
    """
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x):
        raise UserError('the bundle reads texts, {"ids": int32 [N, T], "mask": [N, T]}')
    ids, mask = np.asarray(x["ids"]), np.asarray(x["mask"]) != 0
    if ids.ndim != 2 or ids.shape != mask.shape or ids.dtype.kind not in "iu":
        raise UserError(
            f'x["ids"] is {ids.dtype} of shape {list(ids.shape)} and x["mask"] has '
            f"shape {list(mask.shape)}; both must be [N, T], ids integers"
        )
    outside = (ids < 0) | (ids >= spec["vocab_size"])
    if outside.any():
        raise UserError(
            f'x["ids"] has {ids[outside][0]}, but the network knows ids 0 to '
            f"{spec['vocab_size'] - 1}; use the bundle's {spec['tokenizer']}"
        )
    boundaries = np.asarray(spec["boundaries"])
    lengths = (mask * np.arange(1, ids.shape[1] + 1)).max(axis=1, initial=1)
    if lengths.max(initial=1) > boundaries[-1]:
        raise UserError(
            f"text {lengths.argmax()} has {lengths.max()} tokens, the bundle was "
            f"exported for up to {boundaries[-1]}; cut it"
        )
    wider = ((0, 0), (0, max(0, boundaries[-1] - ids.shape[1])))
    ids = np.pad(ids.astype(np.int32), wider)[:, : boundaries[-1]]
    mask = np.pad(mask, wider)[:, : boundaries[-1]]
    return ids, mask, np.searchsorted(boundaries, lengths)


def check_limits(latest_exit: Any, num_samples: int, num_exits: int) -> np.ndarray:
    """Returns the last exit that each sample may wait for, int32 ``[N]``.

    Args:
      latest_exit: 0-based, int ``[N]`` or one for all; None for the network's last.
      num_samples: N.
      num_exits: K.

    Raises:
      UserError: If it is of another type or shape, or there is no such exit.
    """
    limits = np.asarray(num_exits - 1 if latest_exit is None else latest_exit)
    if limits.shape not in ((), (num_samples,)) or limits.dtype.kind not in "iu":
        raise UserError(
            f"latest_exit is {limits.dtype} of shape {limits.shape}; give one integer, "
            f"or one for each of the {num_samples} samples"
        )
    outside = (limits < 0) | (limits >= num_exits)
    if outside.any():
        raise UserError(
            f"latest_exit={limits[outside].flat[0]} is no exit; the network's are 0 to "
            f"{num_exits - 1}"
        )
    return np.broadcast_to(limits.astype(np.int32), num_samples)


def parts(num_samples: int, batch_sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yields start, stop and batch size of what samples are cut into.

    The largest batch as often as it is filled, then the smallest that holds the rest.

    Args:
      num_samples: N, 0 or more.
      batch_sizes: Increasing.
    """
    start = 0
    while start < num_samples:
        rest = num_samples - start
        size = next((size for size in batch_sizes if size >= rest), batch_sizes[-1])
        yield start, min(num_samples, start + size), size
        start += size


def refuse_not_finite(wrong: np.ndarray) -> None:
    """Raises a UserError if any sample is wrong: has NaN or infinity; bool ``[N]``."""
    if wrong.any():
        raise UserError(
            f"x has NaN or infinity in {wrong.sum()} of {len(wrong)} samples, first in "
            f"sample {wrong.argmax()}; clean the inputs"
        )
