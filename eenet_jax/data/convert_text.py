"""Text sets from their tables: SST-2 of GLUE and AG News."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from eenet_jax.data import convert
from eenet_jax.data.convert_files import Files

AG_NEWS = ("World", "Sports", "Business", "Sci/Tech")


def sst2(files: Files) -> convert.Content:
    """Converts GLUE's ``train.tsv`` and ``dev.tsv``; its test part has no labels.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    features = {
        "idx": tfds.features.Tensor(shape=(), dtype=np.int32),
        "sentence": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=("negative", "positive")),
    }
    splits = {
        "train": _sst2(files, "train.tsv"),
        "validation": _sst2(files, "dev.tsv"),
    }
    return convert.Content("2.0.0", features, splits)


def sst2_sentence(files: Files) -> convert.Content:
    """Converts SST-2's whole sentences: ``train.tsv``, ``dev.tsv`` and ``test.tsv``.

    They have no header, and labels in all three parts.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    features = {
        "idx": tfds.features.Tensor(shape=(), dtype=np.int32),
        "sentence": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=("negative", "positive")),
    }
    names = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    splits = {s: _sst2(files, name, header=False) for s, name in names.items()}
    return convert.Content("1.0.0", features, splits)


def _sst2(files: Files, name: str, *, header: bool = True) -> convert.Split:
    lines = _text(files, name).rstrip("\n").split("\n")  # there are no other line ends
    if header and lines.pop(0).rstrip("\r") != "sentence\tlabel":
        raise files.damaged(name, "its first line is not 'sentence<TAB>label'")
    rows = []
    for number, line in enumerate(lines, 1 + header):
        sentence, tab, label = line.rstrip("\r").rpartition("\t")
        if not tab or label not in ("0", "1"):
            raise files.damaged(name, f"line {number} does not end in <TAB>0 or <TAB>1")
        rows.append({"idx": len(rows), "sentence": sentence, "label": int(label)})
    return convert.Split(range(len(rows)), rows.__getitem__)


def ag_news_subset(files: Files) -> convert.Content:
    """Converts ``train.csv`` and ``test.csv`` of ``ag_news_csv``.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    features = {
        "title": tfds.features.Text(),
        "description": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=AG_NEWS),
    }
    splits = {split: _ag_news(files, f"{split}.csv") for split in ("train", "test")}
    return convert.Content("1.0.0", features, splits)


def _ag_news(files: Files, name: str) -> convert.Split:
    rows: list[Mapping[str, Any]] = []
    try:
        for row in csv.reader(io.StringIO(_text(files, name), newline="")):
            if len(row) != 3 or row[0] not in ("1", "2", "3", "4"):
                raise files.damaged(
                    name, f"row {len(rows) + 1} is not a class 1..4, title, description"
                )
            label = int(row[0]) - 1
            rows.append({"title": row[1], "description": row[2], "label": label})
    except csv.Error as error:
        raise files.damaged(name, error) from error
    return convert.Split(range(len(rows)), rows.__getitem__)


def _text(files: Files, name: str) -> str:
    try:
        return files.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise files.damaged(name, error) from error
