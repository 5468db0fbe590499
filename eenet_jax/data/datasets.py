"""What a data set is once it is loaded, whatever it came from."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from eenet_jax.data.map_records import MapStream
from eenet_jax.data.stream import StreamSplit


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images in memory.

    Attributes:
      images: uint8 ``[N, H, W, C]``.
      labels: int32 ``[N]``, or label maps uint8 ``[N, H, W]`` (see ``maps``).
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class TextSplit:
    """Texts as token ids.

    Attributes:
      ids: int32 ``[N, T]``, padded with 0; T is the longest of the split.
      lengths: Tokens of each text, int32 ``[N]``, in 1..T.
      labels: int32 ``[N]``.
    """

    ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.labels)


Split = ImageSplit | StreamSplit | MapStream | TextSplit


def subset(split: Split, rows: np.ndarray) -> Split:
    """Returns the samples of a split at ``rows``."""
    if isinstance(split, StreamSplit | MapStream):
        return split.subset(rows)
    fields = {name: array[rows] for name, array in vars(split).items()}
    return dataclasses.replace(split, **fields)


def spread(split: Split, count: int) -> Split:
    """Returns so many samples at even distances, all where there are no more."""
    size = split.num_samples
    return subset(split, np.linspace(0, size - 1, min(count, size)).astype(int))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: in memory, or for streamed images where they are found.

    Attributes:
      name: As given to ``sources.load``.
      train: What is trained on.
      val: What checkpoints and policies are chosen on.
      test: What is reported.
      num_classes: Labels are in 0..num_classes-1.
      mean: Mean of each of the C channels, on a scale of [0, 1]; empty for text.
      std: Standard deviation likewise.
      class_names: One per class, or None.
      boundaries: Longest text of each length bucket, in tokens; empty for images.
    """

    name: str
    train: Split
    val: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_names: tuple[str, ...] | None = None
    boundaries: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """What a sample is: "image" or "text"."""
        return "text" if isinstance(self.train, TextSplit) else "image"

    @property
    def target(self) -> str:
        """What a label is: "class" of a sample, or "map" of classes of its pixels."""
        if isinstance(self.train, MapStream):
            return "map"
        return "map" if self.train.labels.ndim == 3 else "class"

    @property
    def metric(self) -> str:
        """What accuracies are: "accuracy", or "miou" where labels are maps."""
        return "miou" if self.target == "map" else "accuracy"


def outlines(dataset: Dataset) -> Iterator[np.ndarray]:
    """Yields what orders and batches follow from: labels, texts, length buckets.

    The pixels of images, which are large and which nothing else depends on, are left
    out.
    """
    for split in (dataset.train, dataset.val, dataset.test):
        yield split.rows if isinstance(split, MapStream) else split.labels
        if isinstance(split, TextSplit):
            yield from (split.lengths, split.ids)
    yield np.array(dataset.boundaries, np.int64)
