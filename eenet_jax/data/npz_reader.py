"""Reads a user's own images from one ``.npz`` file."""

import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from eenet_jax.data.map_records import VOID
from eenet_jax.errors import UserError

KEYS = ("train_images", "train_labels", "test_images", "test_labels")
Arrays = tuple[np.ndarray, np.ndarray]


def find(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns ``data_dir`` as a path; raises UserError when it is no file."""
    path = pathlib.Path(data_dir or "").expanduser()
    if not path.is_file():
        raise UserError(
            f"data.dir={str(data_dir or '')!r} is no file; data.name='npz' needs the "
            f"path of an .npz file with {', '.join(KEYS)}"
        )
    return path


def read(path: pathlib.Path) -> dict[str, Arrays]:
    """Reads and checks the arrays.

    Args:
      path: The ``.npz`` file, with ``train_images, train_labels, test_images,
        test_labels`` and, if validation is not to be taken from train, ``val_images,
        val_labels``. Images are uint8 ``[N, H, W, C]`` with C = 1 or 3, or
        ``[N, H, W]``; labels are integers ``[N]`` from 0, or label maps uint8
        ``[N, H, W]``, in which 255 is a pixel without a class.

    Returns:
      Of "train", "test" and perhaps "val" each ``(images uint8 [N, H, W, C], labels
      int32 [N] or uint8 [N, H, W])``, H, W, C and the labels' rank alike in all.

    Raises:
      UserError: If the file cannot be read or an array is missing or wrong.
    """
    stored = _load(path)
    names = ["train", "test"]
    if "val_images" in stored or "val_labels" in stored:
        names.append("val")
    missing = [
        key
        for name in names
        for key in (f"{name}_images", f"{name}_labels")
        if key not in stored
    ]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(stored)) or 'nothing'}"
        )
    splits = {name: _split(path, stored, name) for name in names}
    shape = splits["train"][0].shape[1:]
    for name, (images, labels) in splits.items():
        if labels.ndim != splits["train"][1].ndim:
            raise UserError(
                f"{path}: {name}_labels and train_labels must both be a label for "
                "each image, or both label maps"
            )
        if images.shape[1:] != shape:
            raise UserError(
                f"{path}: {name}_images are {images.shape[1:]} each, but train_images "
                f"are {shape}; give all splits one size"
            )
    return splits


def _load(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path} as .npz: {error}") from error
    except (AttributeError, TypeError) as error:  # np.load gave one bare array
        raise UserError(f"{path} is one array, not .npz; use np.savez") from error


def _split(path: pathlib.Path, stored: Mapping[str, np.ndarray], name: str) -> Arrays:
    images, labels = stored[f"{name}_images"], stored[f"{name}_labels"]
    where = f"{path}: {name}_images"
    if images.dtype != np.uint8:
        raise UserError(f"{where} are {images.dtype}; give uint8, 0 to 255")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{where} have shape {stored[f'{name}_images'].shape}; give [N, H, W], or "
            "[N, H, W, C] with C = 1 or 3"
        )
    if len(images) == 0:
        raise UserError(f"{where} are empty; give at least one image")
    where = f"{path}: {name}_labels"
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{where} are {labels.dtype}; give integers, 0 to classes - 1")
    if labels.shape == images.shape[:3] and labels.dtype == np.uint8:
        if (labels == VOID).all():
            raise UserError(
                f"{where} are {VOID} (no class) everywhere; give at least one pixel's"
            )
        return images, labels
    if labels.shape != (len(images),):
        raise UserError(
            f"{where} are {labels.dtype} of shape {labels.shape}; give one label for "
            f"each of the {len(images)} images, shape ({len(images)},), or label maps, "
            f"uint8 of shape {images.shape[:3]}"
        )
    if labels.min() < 0:
        first = int(np.argmax(labels < 0))
        raise UserError(f"{where}[{first}]={labels[first]} is negative; count from 0")
    if labels.max() > np.iinfo(np.int32).max:
        first = int(np.argmax(labels))
        raise UserError(f"{where}[{first}]={labels[first]} is too large for a class")
    return images, labels.astype(np.int32)
