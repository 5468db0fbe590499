"""Data sets by name: where they come from, their facts, and the fixed split.

The test part is never split or used for selection. Where a data set has no validation
part of its own, ``val_size`` examples are taken from the training part: stratified by
class, drawn with a seed of their own and not the run's, so that runs with different
seeds train and validate on the same examples.
"""

import dataclasses
import importlib.resources
import os
import pathlib

import numpy as np

from eenet_jax.data import npz_reader, tfds_reader
from eenet_jax.errors import UserError

DIGITS_SIZES = (1000, 297, 500)  # train, val, test


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images uint8 ``[N, H, W, C]`` and labels int32 ``[N]``."""

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Attributes:
      name: As given to ``load``.
      train: What is trained on.
      val: What checkpoints and policies are chosen on.
      test: What is reported.
      num_classes: Labels are in 0..num_classes-1.
      mean: Mean of each of the C channels, on a scale of [0, 1].
      std: Standard deviation likewise.
      class_names: One per class, or None.
    """

    name: str
    train: ImageSplit
    val: ImageSplit
    test: ImageSplit
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class TfdsFacts:
    """What must be known of a TFDS set before it is read.

    ``test_split="validation"`` is for sets whose test labels are not published: their
    official validation part then serves as test, and ours comes from train.
    """

    shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_size: int = 5000
    test_split: str = "test"


_CIFAR10 = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)
_CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_SVHN = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
TFDS = {
    "cifar10": TfdsFacts((32, 32, 3), 10, *_CIFAR10),
    "cifar100": TfdsFacts((32, 32, 3), 100, *_CIFAR100),
    "fashion_mnist": TfdsFacts((28, 28, 1), 10, (0.2860,), (0.3530,)),
    "svhn_cropped": TfdsFacts((32, 32, 3), 10, *_SVHN),
}
NAMES = ("digits", "npz", *TFDS)


def check(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Finds out whether ``load`` will find its files, without reading them.

    Args:
      name: As for ``load``.
      data_dir: As for ``load``.

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
    elif name != "digits":
        tfds_reader.find(name, data_dir)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    val_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a data set into memory.

    Args:
      name: "digits" (ships with the package), "npz" (a file of one's own), or a TFDS
        set of the table ``TFDS``.
      data_dir: The TFDS directory, None for the TFDS default. For "npz" the path of the
        file, whose keys are described in ``npz_reader.read``. Unused for "digits".
      val_size: Training examples set aside for validation; None for the data set's own
        number (a tenth of "npz"). "digits" has a fixed 297; an "npz" file with a
        validation part of its own does not use it.
      seed: Draws the validation examples. Leave it alone: with another seed, results
        are not comparable.

    Returns:
      The data set. Means and deviations are published ones for TFDS sets, else those of
      the training part.

    Raises:
      UserError: If the name is unknown, files are missing or wrong, or ``val_size``
        does not fit.
    """
    check(name, data_dir)
    if name == "digits":
        return _digits(val_size)
    if name == "npz":
        return _npz(npz_reader.find(data_dir), val_size, seed)
    return _tfds(name, data_dir, val_size, seed)


def stratified_split(
    labels: np.ndarray, val_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a validation part with the classes' shares of the whole.

    The draw rests on a raw PCG64 stream, which NumPy keeps the same in all versions.

    Args:
      labels: Class of each example, ``[N]``, not negative.
      val_size: Size of the validation part, from 1 to N - 1.
      seed: Seed of the draw.

    Returns:
      Indices of the remaining and of the drawn examples, each ascending. Each class
      gives its share of ``val_size``, rounded down or up.

    Raises:
      UserError: If ``val_size`` does not leave both parts an example.
    """
    if not 1 <= val_size < len(labels):
        raise UserError(
            f"data.val_size={val_size} must be from 1 to {len(labels) - 1}: it is "
            f"taken from {len(labels)} training examples"
        )
    counts = np.bincount(labels)
    shares = counts * val_size / len(labels)
    quotas = np.floor(shares).astype(int)
    largest = np.argsort(quotas - shares, kind="stable")
    quotas[largest[: val_size - quotas.sum()]] += 1
    order = np.lexsort((np.random.PCG64(seed).random_raw(len(labels)), labels))
    rank_in_class = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    drawn = np.zeros(len(labels), bool)
    drawn[order] = rank_in_class < quotas[labels[order]]
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)


def _split_off(
    images: np.ndarray, labels: np.ndarray, val_size: int, seed: int
) -> tuple[ImageSplit, ImageSplit]:
    parts = stratified_split(labels, val_size, seed)
    train, val = (ImageSplit(images[rows], labels[rows]) for rows in parts)
    return train, val


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel in [0, 1]; 1 stands for a deviation of 0."""
    channels = [images[..., c] for c in range(images.shape[-1])]
    mean = tuple(float(x.mean() / 255) for x in channels)
    std = tuple(float(x.std() / 255) or 1.0 for x in channels)
    return mean, std


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
    return Dataset("digits", train, val, test, 10, *_statistics(train.images), names)


def _npz(path: pathlib.Path, val_size: int | None, seed: int) -> Dataset:
    stored = npz_reader.read(path)
    parts = {name: ImageSplit(*arrays) for name, arrays in stored.items()}
    num_classes = 1 + max(int(part.labels.max()) for part in parts.values())
    if num_classes < 2:
        raise UserError(f"{path}: all labels are 0; give at least two classes")
    train, val = parts["train"], parts.get("val")
    if val is None:
        if val_size is None:
            val_size = max(1, len(train.labels) // 10)
        train, val = _split_off(train.images, train.labels, val_size, seed)
    statistics = _statistics(train.images)
    return Dataset("npz", train, val, parts["test"], num_classes, *statistics)


def _tfds(
    name: str, data_dir: str | os.PathLike[str] | None, val_size: int | None, seed: int
) -> Dataset:
    facts = TFDS[name]
    arrays, class_names = tfds_reader.read(
        tfds_reader.find(name, data_dir),
        ("train", facts.test_split),
        shape=facts.shape,
        num_classes=facts.num_classes,
    )
    if val_size is None:
        val_size = facts.val_size
    train, val = _split_off(*arrays["train"], val_size, seed)
    test = ImageSplit(*arrays[facts.test_split])
    return Dataset(
        name, train, val, test, facts.num_classes, facts.mean, facts.std, class_names
    )
