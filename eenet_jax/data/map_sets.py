"""TFDS sets with a class for every pixel: their facts, and how they are loaded."""

import colorsys
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from eenet_jax.data import map_records
from eenet_jax.data.datasets import Dataset, ImageSplit, Split, subset
from eenet_jax.data.image_sets import IMAGENET
from eenet_jax.data.map_records import VOID, MapRecords, MapStream
from eenet_jax.data.splits import stratified_split
from eenet_jax.data.tfds_records import find_tfds

IN_MEMORY = 2**30  # bytes of a training part that is kept decoded, at most
_CHUNK = 16  # samples decoded at a time


@dataclasses.dataclass(frozen=True)
class MapFacts:
    """What must be known of a TFDS set of label maps before it is read.

    Attributes:
      features: Names of the image and of the label map.
      class_names: Of classes 0..C-1.
      classes: From stored labels to classes, or to ``VOID``.
      splits: Names of the parts that serve as train, val and test; without "val", ours
        comes from train.
      val_size: How many are then taken.
      colours: Of the classes in figures, RGB, 0 to 255.
    """

    features: tuple[str, str]
    class_names: tuple[str, ...]
    classes: Mapping[int, int]
    splits: Mapping[str, str]
    val_size: int
    colours: tuple[tuple[int, int, int], ...]


_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
SETS = {
    "camvid": MapFacts(
        ("image", "segmentation_label"),
        (
            "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence",
            "car", "pedestrian", "bicyclist",
        ),
        {**{c: c for c in range(11)}, 11: VOID},
        {"train": "train", "val": "validation", "test": "test"},
        101,
        (
            (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128),
            (60, 40, 222), (128, 128, 0), (192, 128, 128), (64, 64, 128),
            (64, 0, 128), (64, 64, 0), (0, 128, 192),
        ),
    ),
    # The labels of its test part are not published.
    "cityscapes": MapFacts(
        ("image_left", "segmentation_label"),
        (
            "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light",
            "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car",
            "truck", "bus", "train", "motorcycle", "bicycle",
        ),
        {
            **dict.fromkeys(range(34), VOID),
            **{stored: c for c, stored in enumerate(_CITYSCAPES)},
        },
        {"train": "train", "test": "validation"},
        275,
        (
            (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156),
            (190, 153, 153), (153, 153, 153), (250, 170, 30), (220, 220, 0),
            (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
            (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100),
            (0, 0, 230), (119, 11, 32),
        ),
    ),
}  # fmt: skip


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    *,
    val_size: int | None,
    seed: int,
    size: Sequence[int] = (),
) -> Dataset:
    """Loads a set, into memory where its training part has up to a GiB.

    Args:
      name: One of ``SETS``.
      data_dir: The TFDS directory, None for the TFDS default.
      val_size: Training examples set aside for validation, None for the set's own
        number; a set with a validation part does not use it.
      seed: Draws them.
      size: Height and width that images and maps are resized to; () for their own.

    Raises:
      UserError: If files are missing or wrong, or ``val_size`` does not fit.
    """
    facts, directory = SETS[name], find_tfds(name, data_dir)
    parts = {
        part: _stream(facts, directory, split, size)
        for part, split in facts.splits.items()
    }
    if "val" not in parts:
        train = parts["train"]
        alike = np.zeros(train.num_samples, np.int32)
        rows = stratified_split(alike, val_size or facts.val_size, seed)
        parts["train"], parts["val"] = (subset(train, chosen) for chosen in rows)
    train = parts["train"]
    if train.num_samples * np.prod(train.size) * 4 <= IN_MEMORY:
        parts = {part: _decoded(split) for part, split in parts.items()}
    mean, std = IMAGENET
    num_classes, names = len(facts.class_names), facts.class_names
    return Dataset(name, **parts, num_classes=num_classes, mean=mean, std=std,
                   class_names=names)  # fmt: skip


def _stream(
    facts: MapFacts, directory: pathlib.Path, split: str, size: Sequence[int]
) -> MapStream:
    records = MapRecords(directory, split, facts.features)
    size = tuple(size) or map_records.first_size(records)
    num_classes = len(facts.class_names)
    table = map_records.class_table(facts.classes, num_classes)
    return MapStream(records, np.arange(len(records)), size, table, num_classes)


def _decoded(split: MapStream) -> Split:
    """Returns a split in memory."""
    images = np.empty((split.num_samples, *split.size, 3), np.uint8)
    labels = np.empty((split.num_samples, *split.size), np.uint8)
    for start in range(0, split.num_samples, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, split.num_samples))
        images[rows], labels[rows] = split.eval_part(rows)
    return ImageSplit(images, labels)


def colours(name: str, num_classes: int) -> np.ndarray:
    """Returns what classes are painted with, uint8 ``[C, 3]``.

    Those of the set, or hues all around the circle.
    """
    if name in SETS:
        return np.array(SETS[name].colours, np.uint8)
    hues = (colorsys.hsv_to_rgb(c / num_classes, 0.75, 0.9) for c in range(num_classes))
    return np.array([[round(255 * part) for part in rgb] for rgb in hues], np.uint8)
