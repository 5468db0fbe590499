"""Writes examples from files at hand as a TFDS set (array_record), without TensorFlow.

The converters, one per data set, are in the modules ``convert_*``. Each turns the
``Files`` of its source into a ``Content``, and ``write`` stores that.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from eenet_jax.errors import UserError

_CHUNK = 100  # examples in memory at a time


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of a split, made one at a time.

    Attributes:
      keys: One per example, as TFDS has them; they decide the stored order.
      example: Makes the example of a position in ``keys``: its features by name, where
        an image is encoded already (TFDS would encode an array with TensorFlow).
    """

    keys: Sequence[int] | Sequence[str]
    example: Callable[[int], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Content:
    """A data set to write.

    Attributes:
      version: As TFDS counts, "MAJOR.MINOR.PATCH".
      features: TFDS features by name.
      splits: The splits by name.
      shard_size: The most examples a file holds.
    """

    version: str
    features: Mapping[str, Any]
    splits: Mapping[str, Split]
    shard_size: int = 100_000


def write(name: str, content: Content, data_dir: pathlib.Path) -> pathlib.Path:
    """Writes a data set; its directory appears when everything is in it.

    Examples are stored in the order in which TFDS itself would store them, so a
    validation part drawn by position is the same whoever prepared the set. They are not
    held in memory; TFDS's own builder holds up to 1 GB, and needs TensorFlow beyond.

    Args:
      name: The data set's TFDS name.
      content: What to write.
      data_dir: The TFDS directory.

    Returns:
      ``data_dir / name / version``.

    Raises:
      UserError: If it cannot be written, a split is empty, or an example cannot be
        made.
    """
    if empty := [part for part, split in content.splits.items() if not split.keys]:
        raise UserError(
            f"{name} has no examples in {' and '.join(empty)}; give all its files"
        )
    import tensorflow_datasets as tfds  # slow to import

    final = data_dir / name / content.version
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="incomplete.",  # which TFDS and tfds_reader.newest pass over
            suffix=f"_{content.version}",
            dir=final.parent,
        ) as scratch:
            whole = pathlib.Path(scratch) / content.version
            whole.mkdir()
            info = tfds.core.DatasetInfo(
                builder=tfds.core.DatasetIdentity(
                    name=name,
                    version=tfds.core.Version(content.version),
                    data_dir=str(whole),
                    module_name=__name__,
                ),
                features=tfds.features.FeaturesDict(dict(content.features)),
            )
            writer = tfds.core.SequentialWriter(
                info, content.shard_size, file_format="array_record"
            )
            _write_splits(name, writer, content.splits)
            os.rename(whole, final)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot write {final}: {error}; make room for it there, or give another "
            "--data_dir"
        ) from error
    return final


def _write_splits(name: str, writer: Any, splits: Mapping[str, Split]) -> None:
    writer.initialize_splits(list(splits))
    with tqdm(
        total=sum(len(split.keys) for split in splits.values()),
        desc=f"writing {name}",
        unit=" examples",
        disable=None,
        delay=2,
        leave=False,
    ) as bar:
        for split_name, split in splits.items():
            order = stored_order(split_name, split.keys)
            for start in range(0, len(order), _CHUNK):
                chunk = [split.example(i) for i in order[start : start + _CHUNK]]
                writer.add_examples({split_name: chunk})
                bar.update(len(chunk))
    writer.close_all()


def stored_order(split_name: str, keys: Sequence[int] | Sequence[str]) -> Sequence[int]:
    """Returns the positions of ``keys`` in TFDS's order: by MD5, salted by split."""
    salted = hashlib.md5(split_name.encode(), usedforsecurity=False)

    def hashed(position: int) -> bytes:
        copy = salted.copy()
        copy.update(str(keys[position]).encode())
        return copy.digest()

    return sorted(range(len(keys)), key=hashed)


def pixels(images: np.ndarray, **columns: Sequence[Any] | np.ndarray) -> Split:
    """Makes a split of images in memory, stored as PNG.

    Args:
      images: uint8 ``[N, H, W, C]``, C being 1 or 3.
      **columns: The other features, ``[N]`` each.

    Returns:
      The split, whose keys are 0..N-1 as for the image sets of TFDS.
    """

    def example(i: int) -> Mapping[str, Any]:
        return {"image": png(images[i])} | {k: v[i] for k, v in columns.items()}

    return Split(range(len(images)), example)


def png(image: np.ndarray) -> bytes:
    """Encodes a uint8 image ``[H, W, C]``, C being 1 or 3."""
    encoded = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(np.ascontiguousarray(squeezed)).save(encoded, format="PNG")
    return encoded.getvalue()


def check_labels(labels: np.ndarray, lowest: int, highest: int, where: str) -> None:
    """Refuses labels that the data set does not have.

    Args:
      labels: Integers, ``[N]``.
      lowest: The lowest allowed.
      highest: The highest allowed.
      where: The file they come from, for the message.

    Raises:
      UserError: If one is outside.
    """
    outside = np.flatnonzero((labels < lowest) | (labels > highest))
    if outside.size:
        raise UserError(
            f"{where}: label {labels[outside[0]]} of example {outside[0]} is not in "
            f"{lowest}..{highest}; get the file again"
        )
