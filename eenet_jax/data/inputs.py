"""From splits of any kind to the arrays that go to the devices, and to network inputs.

"Inputs" are what is sent: uint8 images, or token ids cut to the length of a bucket with
the texts' lengths. ``prepare_*`` turns them, inside the compiled step, into what the
backbones read.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.data import batches, images, maps, stream
from eenet_jax.data.datasets import Dataset, ImageSplit, Split, TextSplit
from eenet_jax.data.map_records import MapStream
from eenet_jax.data.stream import StreamSplit
from eenet_jax.data.text_buckets import bucket_of

Prepare = Callable[..., tuple[Any, jax.Array]]


class EvalBatch(NamedTuple):
    """A batch of a split in evaluation; those of a length bucket have one shape.

    Attributes:
      rows: Which samples of the split, int ``[B]``; of padding any.
      mask: bool ``[B]``, False on padding.
      inputs: Pytree of arrays ``[B, ...]``, or of a host's part of them.
      labels: int32 ``[B]``, or label maps uint8 ``[B, H, W]``, likewise.
    """

    rows: np.ndarray
    mask: np.ndarray
    inputs: Any
    labels: np.ndarray


def example(dataset: Dataset, batch_size: int = 1) -> Any:
    """Returns shapes and types of network inputs, for texts of the mean padded length.

    The mean is over the validation part as it lies in its buckets, so costs counted for
    this shape are mean costs.
    """
    if isinstance(dataset.val, TextSplit):
        lengths = np.minimum(dataset.val.lengths, dataset.boundaries[-1])
        padded = np.array(dataset.boundaries)[bucket_of(lengths, dataset.boundaries)]
        shape = (batch_size, max(1, round(float(padded.mean()))))
        ids = jax.ShapeDtypeStruct(shape, np.int32)
        return {"ids": ids, "mask": jax.ShapeDtypeStruct(shape, np.bool_)}
    if isinstance(dataset.val, StreamSplit):
        height = width = dataset.val.image_size
    elif isinstance(dataset.val, MapStream):
        height, width = dataset.val.size
    else:
        height, width = dataset.val.images.shape[1:3]
    return jax.ShapeDtypeStruct((batch_size, height, width, 3), np.float32)


def train_groups(dataset: Dataset, batch_size: int) -> list[tuple[Any, np.ndarray]]:
    """Returns ``(inputs, labels)`` of the training part, one a length bucket.

    A bucket that does not fill a batch goes into the next longer one, the last into
    the one before it, so that every text is trained on.
    """
    train = dataset.train
    if isinstance(train, ImageSplit):
        return [(train.images, train.labels)]
    groups: list[tuple[np.ndarray, int]] = []
    for rows, length in _buckets(train, dataset.boundaries):
        if groups and len(groups[-1][0]) < batch_size:
            rows = np.concatenate([groups.pop()[0], rows])
        groups.append((rows, length))
    if len(groups) > 1 and len(groups[-1][0]) < batch_size:
        rows, length = groups.pop()
        groups[-1] = np.concatenate([groups[-1][0], rows]), length
    return [
        (_texts(train, rows, length), train.labels[rows]) for rows, length in groups
    ]


def eval_batches(
    dataset: Dataset,
    split: Split,
    batch_size: int,
    num_workers: int = 0,
    *,
    host_index: int = 0,
    host_count: int = 1,
) -> Iterator[EvalBatch]:
    """Yields every sample of a split once, in batches of ``batch_size``.

    Args:
      dataset: The data set.
      split: Of it.
      batch_size: Samples a batch, over all hosts.
      num_workers: Processes that decode streamed images.
      host_index: Which of the hosts this is: its inputs are its part of every batch,
        while rows and mask are those of all.
      host_count: How many there are; divides ``batch_size``.
    """
    local = batch_size // host_count
    part = slice(host_index * local, (host_index + 1) * local)
    if isinstance(split, StreamSplit | MapStream):
        streamed = stream.eval_batches(
            split,
            batch_size=batch_size,
            num_workers=num_workers,
            host_index=host_index,
            host_count=host_count,
        )
        parts = batches.eval_batches(split.num_samples, batch_size)
        for rows, mask, (pixels, labels, _) in zip(*parts, streamed, strict=True):
            yield EvalBatch(rows, mask, pixels, labels)
    elif isinstance(split, ImageSplit):
        parts = batches.eval_batches(split.num_samples, batch_size)
        for rows, mask in zip(*parts, strict=True):
            local = rows[part]
            yield EvalBatch(rows, mask, split.images[local], split.labels[local])
    else:
        for members, length in _buckets(split, dataset.boundaries):
            parts = batches.eval_batches(len(members), batch_size)
            for index, mask in zip(*parts, strict=True):
                rows = members[index]
                local = rows[part]
                texts = _texts(split, local, length)
                yield EvalBatch(rows, mask, texts, split.labels[local])


def num_eval_batches(dataset: Dataset, split: Split, batch_size: int) -> int:
    """Returns how many batches ``eval_batches`` yields."""
    if not isinstance(split, TextSplit):
        return -(-split.num_samples // batch_size)
    sizes = [len(rows) for rows, _ in _buckets(split, dataset.boundaries)]
    return sum(-(-size // batch_size) for size in sizes)


def prepare_eval(dataset: Dataset) -> Callable[[Any], Any]:
    """Returns the map from inputs to what a backbone reads, without augmentation."""
    return preparation(dataset.kind, dataset.mean, dataset.std)


def preparation(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Any], Any]:
    """Returns ``prepare_eval`` of the data sets with these; it holds none of them."""
    if kind == "text":
        return _with_mask
    return lambda pixels: images.normalise(pixels, mean, std)


def prepare_train(dataset: Dataset, augmentation: Mapping[str, Any]) -> Prepare:
    """Returns ``(inputs, labels, key=) -> (x, labels)`` with augmentation.

    Args:
      dataset: The data set.
      augmentation: As ``images.augment`` takes it, or ``maps.augment`` where labels
        are maps. Streamed images of one class come augmented from their workers, and
        text is not augmented.
    """
    evaluated = prepare_eval(dataset)

    def prepare(inputs: Any, labels: jax.Array, *, key: jax.Array) -> Any:
        options = {"key": key, "mean": dataset.mean, **augmentation}
        if dataset.target == "map":
            inputs, labels = maps.augment(inputs, labels, **options)
        elif isinstance(dataset.train, ImageSplit):
            inputs = images.augment(inputs, **options)
        return evaluated(inputs), labels

    return prepare


def _buckets(
    split: TextSplit, boundaries: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the rows of each length bucket that has any, and its length."""
    bucket = bucket_of(np.minimum(split.lengths, boundaries[-1]), boundaries)
    for i, length in enumerate(boundaries):
        rows = np.flatnonzero(bucket == i)
        if len(rows):
            yield rows, length


def _texts(split: TextSplit, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
    ids = split.ids[rows, :length]
    missing = length - ids.shape[1]  # a split may be shorter than its bucket
    ids = np.pad(ids, ((0, 0), (0, missing))) if missing > 0 else ids
    return {"ids": ids, "lengths": np.minimum(split.lengths[rows], length)}


def _with_mask(inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    ids, lengths = inputs["ids"], inputs["lengths"]
    return {"ids": ids, "mask": jnp.arange(ids.shape[1])[None] < lengths[:, None]}
