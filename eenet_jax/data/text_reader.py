"""Reads prepared TFDS text sets from array_record files, without TensorFlow."""

import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from eenet_jax.data import tfds_reader
from eenet_jax.errors import UserError

_CHUNK = 1000  # records read at a time
Texts = tuple[list[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class TextFacts:
    """What must be known of a TFDS text set before it is read.

    Attributes:
      columns: Features joined with a space to the text; empty ones are left out.
      num_classes: Labels are in 0..num_classes-1.
      parts: Which of its splits serve as "train", "test" and perhaps "val".
      val_size: Examples taken from train where there is no "val".
      directories: Where it may stand below the TFDS directory, if not under its name.
        The first is what TFDS calls it.
    """

    columns: tuple[str, ...]
    num_classes: int
    parts: Mapping[str, str]
    val_size: int | None = None
    directories: tuple[str, ...] = ()


_TRAIN_TEST = {"train": "train", "test": "test"}
TFDS = {
    # GLUE keeps its test labels, so its validation part is our test. Training
    # examples are phrases, one often part of another, so our validation part and what
    # remains for training overlap.
    "sst2": TextFacts(
        ("sentence",),
        2,
        {"train": "train", "test": "validation"},
        val_size=5000,
        directories=("glue/sst2", "sst2"),
    ),
    "sst2_sentence": TextFacts(("sentence",), 2, _TRAIN_TEST | {"val": "validation"}),
    "ag_news_subset": TextFacts(
        ("title", "description"), 4, _TRAIN_TEST, val_size=10_000
    ),
}


def find(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Finds the newest prepared version of a text set of the table ``TFDS``.

    Args:
      name: Its name in the table.
      data_dir: The TFDS directory, None for the TFDS default.

    Returns:
      The directory of that version.

    Raises:
      UserError: If there is none, or it is not stored as array_record. The message has
        the line that prepares it.
    """
    root = tfds_reader.resolve(data_dir)
    for directory in TFDS[name].directories:
        if tfds_reader.newest(root / directory) is not None:
            return tfds_reader.find(directory, root)
    return tfds_reader.find(name, root)


def read_tfds(
    name: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[Mapping[str, Texts], tuple[str, ...] | None]:
    """Reads a text set of the table ``TFDS`` into memory.

    A progress bar shows on a terminal when it takes longer than two seconds.

    Args:
      name: Its name in the table.
      data_dir: The TFDS directory, None for the TFDS default.

    Returns:
      Of "train", "test" and, for a set with a validation part of its own, "val" each
      ``(texts, labels int32 [N])`` in stored order; and the names of the classes, None
      if the set has none.

    Raises:
      UserError: If the set is not prepared, a split is missing or empty, the features
        are others than those expected, or a file cannot be read.
    """
    directory = find(name, data_dir)
    facts = TFDS[name]
    import tensorflow_datasets as tfds  # slow to import, and for this source only

    try:
        builder = tfds.builder_from_directory(directory)
        sizes = {key: split.num_examples for key, split in builder.info.splits.items()}
        features = dict(builder.info.features.items())
        _check(name, directory, sizes, features)
        with tqdm(
            total=sum(sizes[split] for split in facts.parts.values()),
            desc=f"reading {name}",
            unit=" texts",
            disable=None,
            delay=2,
            leave=False,
        ) as bar:
            parts = {
                part: _decode(builder.as_data_source(split=split), facts.columns, bar)
                for part, split in facts.parts.items()
            }
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"cannot read {directory}: {error}; remove it and prepare it again with: "
            f"python -m eenet_jax.data.prepare {name} "
            f"--data_dir={shlex.quote(str(tfds_reader.resolve(data_dir)))}"
        ) from error
    for part, (_, labels) in parts.items():
        if labels.min() < 0 or labels.max() >= facts.num_classes:
            raise UserError(
                f"{directory}: labels of split {facts.parts[part]!r} go from "
                f"{labels.min()} to {labels.max()}; they must be in "
                f"0..{facts.num_classes - 1}: prepare it again elsewhere"
            )
    label = features["label"]
    # Without names of its own TFDS counts: "0", "1", ...
    names = tuple(label.int2str(i) for i in range(facts.num_classes))
    return parts, None if names == tuple(map(str, range(len(names)))) else names


def _check(
    name: str,
    directory: pathlib.Path,
    sizes: Mapping[str, int],
    features: Mapping[str, Any],
) -> None:
    facts = TFDS[name]
    missing = [split for split in facts.parts.values() if not sizes.get(split)]
    if missing:
        raise UserError(
            f"{directory} has no examples in {', '.join(missing)}, only in "
            f"{', '.join(sorted(sizes)) or 'nothing'}; prepare it again elsewhere"
        )
    absent = [column for column in facts.columns if column not in features]
    if absent:
        raise UserError(
            f"{directory} has no {' and no '.join(absent)}, only "
            f"{', '.join(sorted(features))}; it is another set than {name}: set "
            "data.dir to the right one's"
        )
    num_classes = getattr(features.get("label"), "num_classes", None)
    if num_classes != facts.num_classes:
        raise UserError(
            f"{directory} has {num_classes} classes, but {name} has "
            f"{facts.num_classes}; set data.dir to the right one's"
        )


def _decode(
    source: Sequence[Mapping[str, Any]], columns: Sequence[str], bar: tqdm
) -> Texts:
    texts = []
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source)))
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            parts = (record[column].decode("utf-8") for column in columns)
            texts.append(" ".join(filter(None, parts)))
            labels[i] = record["label"]
        bar.update(len(rows))
    return texts, labels
