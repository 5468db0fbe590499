"""Data sets by name: where they come from, their facts, and the fixed split.

The test part is never split or used for selection. Where a data set has no validation
part of its own, ``val_size`` examples are taken from the training part: stratified by
class, drawn with a seed of their own and not the run's, so that runs with different
seeds train and validate on the same examples.
"""

import importlib.resources
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eenet_jax.data import folder, map_sets, npz_reader, text, tfds_reader
from eenet_jax.data.datasets import Dataset, ImageSplit, Split
from eenet_jax.data.image_sets import IMAGENET, TFDS
from eenet_jax.data.map_records import VOID
from eenet_jax.data.splits import stratified_split
from eenet_jax.data.stream import StreamSplit
from eenet_jax.data.tfds_records import TfdsRecords, find_tfds
from eenet_jax.errors import UserError

DIGITS_SIZES = (1000, 297, 500)  # train, val, test


NAMES = ("digits", "npz", "folder", *TFDS, *map_sets.SETS, *text.NAMES)


def check(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    tokenizer: str = "",
) -> None:
    """Finds out whether ``load`` will find its files, without reading them.

    Args:
      name: As for ``load``.
      data_dir: As for ``load``.
      tokenizer: As for ``load``.

    Raises:
      UserError: If the name is unknown or the files are not there; for a TFDS set the
        message has the line that prepares it.
    """
    if name not in NAMES:
        raise UserError(
            f"unknown data.name={name!r}; choose from {', '.join(sorted(NAMES))}"
        )
    if name == "npz":
        npz_reader.find(data_dir)
    elif name == "folder":
        folder.find(data_dir)
    elif name in TFDS or name in map_sets.SETS:
        find_tfds(name, data_dir)
    elif name in text.NAMES:
        text.check_text(name, data_dir=data_dir, tokenizer=tokenizer)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    val_size: int | None = None,
    seed: int = 0,
    image_size: int = 224,
    resize: Sequence[int] = (),
    tokenizer: str = "",
    max_length: int = 128,
    num_buckets: int = 4,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    vocab_size: int | None = None,
) -> Dataset:
    """Loads a data set: into memory, or, where images are streamed, its labels.

    Args:
      name: "digits" (ships with the package), "npz", "folder" and "csv" (one's own
        images and texts), a TFDS image set of the table ``TFDS``, one with label maps
        of ``map_sets``, or a TFDS text set of the table in ``text_reader``.
      data_dir: The TFDS directory, None for the TFDS default. The file of "npz", whose
        keys are described in ``npz_reader.read``; the directory of "folder" or "csv".
        Unused for "digits".
      val_size: Training examples set aside for validation; None for the data set's own
        number (a tenth of one's own). "digits" has a fixed 297; a set with a validation
        part of its own does not use it.
      seed: Draws the validation examples. Leave it alone: with another seed, results
        are not comparable.
      image_size: Side in pixels of streamed images.
      resize: Height and width that images with label maps are resized to; () for
        their own.
      tokenizer: Of text: a ``tokenizer.json``, a ``vocab.txt``, or a directory.
      max_length: Of text: most tokens kept.
      num_buckets: Of text: length buckets, at most.
      text_columns: Of "csv": columns that make up the text.
      label_column: Of "csv": column of the label.
      vocab_size: Of text: rows of the network's embedding, None not to compare.

    Returns:
      The data set. Means and deviations are published ones for TFDS sets, else those of
      the training part; of streamed folders those of ImageNet.

    Raises:
      UserError: If the name is unknown, files are missing or wrong, or ``val_size``
        does not fit.
    """
    check(name, data_dir, tokenizer=tokenizer)
    if name == "digits":
        return _digits(val_size)
    if name == "npz":
        return _npz(npz_reader.find(data_dir), val_size, seed)
    if name == "folder":
        return _folder(data_dir, val_size, seed, image_size)
    if name in map_sets.SETS:
        return map_sets.load(name, data_dir, val_size=val_size, seed=seed, size=resize)
    if name in TFDS:
        read = _tfds if TFDS[name].shape else _streamed_tfds
        return read(name, data_dir, val_size, seed, image_size)
    return text.load_text(
        name,
        data_dir=data_dir,
        tokenizer=tokenizer,
        max_length=max_length,
        num_buckets=num_buckets,
        val_size=val_size,
        text_columns=text_columns,
        label_column=label_column,
        vocab_size=vocab_size,
        seed=seed,
    )


def _with_val(
    parts: Mapping[str, Split], val_size: int | None, seed: int
) -> dict[str, Split]:
    """Returns "train", "val" and "test", with val taken from train where it lacks."""
    parts = dict(parts)
    if "val" not in parts:
        train = parts["train"]
        size = val_size or max(1, train.num_samples // 10)
        maps = train.labels.ndim == 3
        alike = np.zeros(train.num_samples, np.int32) if maps else train.labels
        rows = stratified_split(alike, size, seed)
        parts["train"], parts["val"] = (_subset(train, part) for part in rows)
    return parts


def _subset(split: ImageSplit | StreamSplit, rows: np.ndarray) -> Split:
    if isinstance(split, StreamSplit):
        return split.subset(rows)
    return ImageSplit(split.images[rows], split.labels[rows])


def _statistics(images: np.ndarray) -> dict[str, tuple[float, ...]]:
    """Mean and deviation per channel in [0, 1]; 1 stands for a deviation of 0."""
    channels = [images[..., c] for c in range(images.shape[-1])]
    mean = tuple(float(x.mean() / 255) for x in channels)
    std = tuple(float(x.std() / 255) or 1.0 for x in channels)
    return {"mean": mean, "std": std}


def _digits(val_size: int | None) -> Dataset:
    if val_size not in (None, DIGITS_SIZES[1]):
        raise UserError(
            f"data.val_size={val_size} does not fit data.name='digits', whose split of "
            f"{DIGITS_SIZES} is fixed; set data.val_size={DIGITS_SIZES[1]}"
        )
    file = importlib.resources.files("eenet_jax.data") / "digits.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        images = stored["images"][..., None]
        labels = stored["labels"].astype(np.int32)
    ends = np.cumsum(DIGITS_SIZES)[:-1]  # the file has the three parts in this order
    pairs = zip(np.split(images, ends), np.split(labels, ends), strict=True)
    train, val, test = (ImageSplit(*pair) for pair in pairs)
    names = tuple("0123456789")
    statistics = _statistics(train.images)
    return Dataset("digits", train, val, test, 10, **statistics, class_names=names)


def _npz(path: pathlib.Path, val_size: int | None, seed: int) -> Dataset:
    stored = npz_reader.read(path)
    parts = {name: ImageSplit(*arrays) for name, arrays in stored.items()}
    num_classes = 1 + max(_highest(part.labels) for part in parts.values())
    if num_classes < 2:
        raise UserError(f"{path}: all labels are 0; give at least two classes")
    parts = _with_val(parts, val_size, seed)
    statistics = _statistics(parts["train"].images)
    return Dataset("npz", **parts, num_classes=num_classes, **statistics)


def _highest(labels: np.ndarray) -> int:
    """Returns the highest class of labels or label maps."""
    return int(labels.max() if labels.ndim == 1 else labels[labels != VOID].max())


def _folder(
    data_dir: str | os.PathLike[str] | None,
    val_size: int | None,
    seed: int,
    image_size: int,
) -> Dataset:
    """Small images (up to 64 pixels) are taken into memory, others are streamed."""
    records, names = folder.read(folder.find(data_dir))
    size = folder.small_size(records["train"])
    if size is None:
        parts = {n: _streamed(r, r.labels, image_size) for n, r in records.items()}
        statistics = dict(zip(("mean", "std"), IMAGENET, strict=True))
    else:
        parts = {
            name: ImageSplit(folder.load_arrays(part, size), part.labels)
            for name, part in records.items()
        }
        statistics = _statistics(parts["train"].images)
    parts = _with_val(parts, val_size, seed)
    return Dataset(
        "folder", **parts, num_classes=len(names), **statistics, class_names=names
    )


def _tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    val_size: int | None,
    seed: int,
    image_size: int,
) -> Dataset:
    del image_size  # it is that of the set
    facts = TFDS[name]
    arrays, class_names = tfds_reader.read(
        find_tfds(name, data_dir),
        ("train", facts.test_split),
        shape=facts.shape,
        num_classes=facts.num_classes,
    )
    parts = {
        "train": ImageSplit(*arrays["train"]),
        "test": ImageSplit(*arrays[facts.test_split]),
    }
    return _of_facts(name, parts, val_size, seed, class_names)


def _streamed_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    val_size: int | None,
    seed: int,
    image_size: int,
) -> Dataset:
    directory = find_tfds(name, data_dir)
    splits = {"train": "train", "test": TFDS[name].test_split}
    records = {part: TfdsRecords(directory, split) for part, split in splits.items()}
    found, expected = records["train"].num_classes, TFDS[name].num_classes
    if found != expected:
        raise UserError(f"{directory} has {found} classes; {name} has {expected}")
    parts = {n: _streamed(r, r.labels(), image_size) for n, r in records.items()}
    return _of_facts(name, parts, val_size, seed, records["train"].class_names)


def _of_facts(
    name: str,
    parts: Mapping[str, Split],
    val_size: int | None,
    seed: int,
    class_names: tuple[str, ...] | None,
) -> Dataset:
    facts = TFDS[name]
    return Dataset(
        name,
        **_with_val(parts, val_size or facts.val_size, seed),
        num_classes=facts.num_classes,
        mean=facts.mean,
        std=facts.std,
        class_names=class_names,
    )


def _streamed(records: Any, labels: np.ndarray, image_size: int) -> StreamSplit:
    """Evaluation cuts the centre of images resized to 8/7 of its side (256 to 224)."""
    rows = np.arange(len(labels))
    resize = round(image_size * 256 / 224)
    return StreamSplit(records, labels, rows, image_size, resize)
