"""Reads prepared TFDS image sets from array_record files, without TensorFlow.

TFDS itself answers an unprepared set with a download, or with an error about TFRECORD
files. So ``find`` looks for the directory first and says what prepares it.
"""

import io
import json
import os
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from eenet_jax.errors import UserError

_CHUNK = 1000  # records read at a time


def find(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Finds the newest prepared version of a data set.

    Args:
      name: The data set's TFDS name.
      data_dir: The TFDS directory, the one that holds ``NAME/VERSION/``. None for the
        TFDS default: ``$TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.

    Returns:
      The directory of that version.

    Raises:
      UserError: If there is none, or it is not stored as array_record. The message has
        the line that prepares it.
    """
    root = resolve(data_dir)
    line = _prepare_line(name, root)
    info = newest(root / name)
    if info is None:
        raise UserError(
            f"data.name={name!r} is not prepared in data.dir={str(root)!r} (no "
            f"{root / name / 'VERSION' / 'dataset_info.json'}); prepare it with: {line}"
        )
    try:
        stored_as = json.loads(info.read_text(encoding="utf-8"))["fileFormat"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(info.parent, error, line) from error
    if stored_as != "array_record":
        raise UserError(
            f"{info.parent} is stored as {stored_as!r}, which only TensorFlow reads; "
            f"prepare it as array_record in another data.dir, as with: {line}"
        )
    return info.parent


def resolve(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the TFDS directory that ``data_dir`` or, for None, the default means."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(data_dir or default).expanduser()


def newest(directory: pathlib.Path) -> pathlib.Path | None:
    """Returns the ``dataset_info.json`` of a data set's newest version, if any."""
    found = {
        tuple(map(int, info.parent.name.split("."))): info
        for info in directory.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    }
    return found[max(found)] if found else None


def read(
    directory: pathlib.Path,
    splits: Sequence[str],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
) -> tuple[Mapping[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...] | None]:
    """Reads whole splits into memory; 60,000 CIFAR images take about 15 seconds.

    A progress bar shows on a terminal when it takes longer than two seconds.

    Args:
      directory: What ``find`` returned.
      splits: Names of the splits to read.
      shape: The images' H, W and C.
      num_classes: Labels are below it.

    Returns:
      For each split ``(images uint8 [N, H, W, C], labels int32 [N])`` in stored order,
      and the names of the classes, None if the set has none.

    Raises:
      UserError: If a split is missing or empty, the features are others than those
        expected, or a file cannot be read.
    """
    import tensorflow_datasets as tfds  # slow to import, and for this source only

    try:
        builder = tfds.builder_from_directory(directory)
        sizes = {key: split.num_examples for key, split in builder.info.splits.items()}
        features = dict(builder.info.features.items())
        _check(directory, sizes, features, splits, shape, num_classes)
        # TFDS would decode too, but more slowly and with a warning about OpenCV.
        decoders = {"image": tfds.decode.SkipDecoding()}
        with tqdm(
            total=sum(sizes[split] for split in splits),
            desc=f"reading {builder.name}",
            unit=" images",
            disable=None,
            delay=2,
            leave=False,
        ) as bar:
            arrays = {
                split: _decode(
                    builder.as_data_source(split=split, decoders=decoders), shape, bar
                )
                for split in splits
            }
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        line = _prepare_line(directory.parent.name, directory.parent.parent)
        raise _unreadable(directory, error, line) from error
    for split, (_, labels) in arrays.items():
        if labels.min() < 0 or labels.max() >= num_classes:
            raise UserError(
                f"{directory}: labels of split {split!r} go from {labels.min()} to "
                f"{labels.max()}; they must be in 0..{num_classes - 1}"
            )
    label = features["label"]
    # Without names of its own TFDS counts: "0", "1", ...
    names = tuple(label.int2str(i) for i in range(num_classes))
    return arrays, None if names == tuple(map(str, range(num_classes))) else names


def _check(
    directory: pathlib.Path,
    sizes: Mapping[str, int],
    features: Mapping[str, Any],
    splits: Sequence[str],
    shape: tuple[int, int, int],
    num_classes: int,
) -> None:
    missing = [split for split in splits if not sizes.get(split)]
    if missing:
        raise UserError(
            f"{directory} has no examples in {', '.join(missing)}, only in "
            f"{', '.join(sorted(sizes)) or 'nothing'}; prepare it again elsewhere"
        )
    image, label = features.get("image"), features.get("label")
    stored = getattr(image, "shape", None), getattr(label, "num_classes", None)
    if stored != (shape, num_classes):
        raise UserError(
            f"{directory} holds images of shape {stored[0]} with {stored[1]} classes; "
            f"{directory.parent.name} has {shape} and {num_classes}"
        )


def _decode(
    source: Sequence[Mapping[str, Any]], shape: tuple[int, int, int], bar: tqdm
) -> tuple[np.ndarray, np.ndarray]:
    count = len(source)
    images = np.empty((count, *shape), np.uint8)
    labels = np.empty(count, np.int32)
    for start in range(0, count, _CHUNK):
        rows = range(start, min(start + _CHUNK, count))
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            with Image.open(io.BytesIO(record["image"])) as image:
                images[i] = np.asarray(image).reshape(shape)
            labels[i] = record["label"]
        bar.update(len(rows))
    return images, labels


def _prepare_line(name: str, root: pathlib.Path) -> str:
    """Returns the command; it knows glue/sst2 as sst2, and sets without configs."""
    name = name.removeprefix("glue/").partition("/")[0]
    return (
        f"python -m eenet_jax.data.prepare {name} --data_dir={shlex.quote(str(root))}"
    )


def _unreadable(directory: pathlib.Path, error: Exception, line: str) -> UserError:
    return UserError(
        f"cannot read {directory}: {error}; remove it and prepare it again with: {line}"
    )
