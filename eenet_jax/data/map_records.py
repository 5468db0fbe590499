"""Images with label maps: TFDS sets read and decoded one sample at a time."""

import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eenet_jax.data import decode
from eenet_jax.data.tfds_records import TfdsRecords
from eenet_jax.errors import UserError

VOID = 255  # in a label map: a pixel without a class
Pair = tuple[np.ndarray, np.ndarray]


class MapRecords(TfdsRecords):
    """The records of one split of a TFDS set with a class for every pixel.

    Args:
      directory: What ``find_tfds`` returned.
      split: The split's name.
      features: Names of the image and of the label map.

    Raises:
      UserError: If the split or a feature is missing.
    """

    def __init__(self, directory: pathlib.Path, split: str, features: tuple[str, str]):
        self.encoded = features
        super().__init__(directory, split)

    def _read_features(self, features: Mapping[str, Any]) -> None:
        missing = [name for name in self.encoded if name not in features]
        if missing:
            raise UserError(
                f"{self.directory} has features {', '.join(sorted(features))}, and "
                f"lacks {', '.join(missing)}; prepare it again elsewhere"
            )

    def __getitem__(self, row: int) -> tuple[bytes, bytes]:
        """Returns the encoded image and the encoded label map."""
        with self._refusing():
            record = self._opened()[row]
            return tuple(record[name] for name in self.encoded)


@dataclasses.dataclass(frozen=True, eq=False)
class MapStream:
    """A split of images with label maps that are read when they are needed.

    Attributes:
      records: Where they are; may hold those of other splits too.
      rows: int64 ``[N]``, their places in ``records``.
      size: Height and width that images and maps are resized to.
      classes: What each stored label stands for, uint8 ``[256]``: a class, ``VOID``,
        or ``num_classes`` for one that must not occur.
      num_classes: C.
    """

    records: MapRecords
    rows: np.ndarray
    size: tuple[int, int]
    classes: np.ndarray
    num_classes: int

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.rows)

    def subset(self, indices: np.ndarray) -> "MapStream":
        """Returns the samples at ``indices``."""
        return dataclasses.replace(self, rows=self.rows[indices])

    def train_part(self, flip: bool, seed: int, epoch: int, indices: Any) -> Pair:
        """Decodes samples for training; the device augments them."""
        del flip, seed, epoch
        return self.eval_part(indices)

    def eval_part(self, indices: Sequence[int]) -> Pair:
        """Returns images uint8 ``[n, H, W, 3]`` and label maps uint8 ``[n, H, W]``.

        Raises:
          UserError: If one cannot be decoded, they are of different sizes, or a label
            is no class, with the record.
        """
        images = np.empty((len(indices), *self.size, 3), np.uint8)
        labels = np.empty((len(indices), *self.size), np.uint8)
        for i, index in enumerate(indices):
            row = int(self.rows[index])
            try:
                images[i], labels[i] = self._decoded(*self.records[row])
            except UserError as error:
                name = self.records.name(row)
                raise UserError(f"{name} {error}") from error
        return images, labels

    def _decoded(self, image: bytes, label: bytes) -> Pair:
        pixels, stored = decode.whole_image(image), decode.label_map(label)
        if pixels.shape[:2] != stored.shape:
            raise UserError(
                f"has an image of {pixels.shape[:2]} pixels and labels of "
                f"{stored.shape}; they must agree"
            )
        known = self.classes[stored]
        wrong = np.argwhere(known == self.num_classes)
        if len(wrong):
            place = tuple(wrong[0].tolist())
            raise UserError(
                f"has label {stored[place]} at pixel {place}; classes are "
                f"0..{self.num_classes - 1}"
            )
        size = self.size[::-1]
        if pixels.shape[:2] != self.size:
            resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
            resized = Image.fromarray(known).resize(size, Image.Resampling.NEAREST)
            known = np.asarray(resized)
        return pixels, known


def first_size(records: MapRecords) -> tuple[int, int]:
    """Returns height and width of the first image."""
    with Image.open(io.BytesIO(records[0][0])) as image:
        return image.height, image.width


def class_table(classes: Mapping[int, int], num_classes: int) -> np.ndarray:
    """Returns what each stored label stands for, uint8 ``[256]``; see ``MapStream``.

    Args:
      classes: From stored labels to classes, or to ``VOID``; 255 is void always.
      num_classes: C; stands for a label that must not occur.
    """
    table = np.full(256, num_classes, np.uint8)
    table[VOID] = VOID
    for stored, known in classes.items():
        table[stored] = known
    return table
