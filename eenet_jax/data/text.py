"""Text data sets by name: read, split, and turned into token ids.

The test part is never split or used for selection. Where a set has no validation part
of its own, one is drawn from the training part as for images (``sources``).
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from eenet_jax.data import text_csv, text_reader, text_tokens
from eenet_jax.data.datasets import Dataset, TextSplit
from eenet_jax.data.splits import stratified_split
from eenet_jax.data.text_buckets import default_boundaries
from eenet_jax.errors import UserError

NAMES = ("csv", *text_reader.TFDS)


def check_text(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None,
) -> None:
    """Finds out whether ``load_text`` will find its files, without reading them.

    Args:
      name: As for ``load_text``.
      data_dir: As for ``load_text``.
      tokenizer: As for ``load_text``.

    Raises:
      UserError: If the name is unknown or files are not there; for a TFDS set the
        message has the line that prepares it.
    """
    if name not in NAMES:
        raise UserError(
            f"unknown data.name={name!r} of a text set; choose from "
            f"{', '.join(sorted(NAMES))}"
        )
    if name == "csv":
        text_csv.find(data_dir)
    else:
        text_reader.find(name, data_dir)
    text_tokens.find(tokenizer)


def load_text(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str],
    max_length: int = 512,
    num_buckets: int = 4,
    val_size: int | None = None,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
    vocab_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads a text data set into memory as token ids.

    Args:
      name: "csv" (files of one's own, see ``text_csv``) or a TFDS set of the table
        ``text_reader.TFDS``.
      data_dir: The TFDS directory, None for the TFDS default. For "csv" the directory
        of the files.
      tokenizer: A ``tokenizer.json``, a ``vocab.txt``, or a directory with either.
      max_length: Most tokens a text may keep, with ``[CLS]`` and ``[SEP]``.
      num_buckets: Length buckets, at most.
      val_size: Training examples set aside for validation; None for the data set's own
        number (a tenth of "csv"). A set with a validation part of its own does not use
        it.
      text_columns: Columns of "csv" that make up the text, joined with a space.
      label_column: Column of "csv" with the label.
      vocab_size: Rows of the model's embedding, None not to compare.
      seed: Draws the validation examples. Leave it alone: with another seed, results
        are not comparable.

    Returns:
      The data set; examples in stored order.

    Raises:
      UserError: If the name is unknown, files are missing or wrong, the tokenizer does
        not fit, or ``val_size`` or ``max_length`` does not.
    """
    check_text(name, data_dir=data_dir, tokenizer=tokenizer)
    loaded = text_tokens.load_tokenizer(tokenizer, vocab_size=vocab_size)
    if name == "csv":
        parts, class_names, num_classes = text_csv.read_csv(
            data_dir, text_columns=text_columns, label_column=label_column
        )
        own_size = max(1, len(parts["train"][1]) // 10)
    else:
        parts, class_names = text_reader.read_tfds(name, data_dir)
        num_classes = text_reader.TFDS[name].num_classes
        own_size = text_reader.TFDS[name].val_size
    parts = dict(parts)
    if "val" not in parts:
        texts, labels = parts["train"]
        size = own_size if val_size is None else val_size
        for part, rows in zip(
            ("train", "val"),
            stratified_split(labels, size, seed),
            strict=True,
        ):
            parts[part] = [texts[row] for row in rows], labels[rows]
    splits = {
        part: TextSplit(*text_tokens.encode(loaded, texts, max_length), labels)
        for part, (texts, labels) in parts.items()
    }
    return Dataset(
        name,
        **splits,
        num_classes=num_classes,
        class_names=class_names,
        boundaries=_boundaries(splits, num_buckets, max_length),
    )


def _boundaries(
    splits: Mapping[str, TextSplit], count: int, max_length: int
) -> tuple[int, ...]:
    """Returns boundaries that suit the training part and hold the longest of all."""
    longest = max(int(split.lengths.max()) for split in splits.values())
    lengths = np.append(splits["train"].lengths, longest)
    return tuple(default_boundaries(lengths, count, max_length=max_length))
