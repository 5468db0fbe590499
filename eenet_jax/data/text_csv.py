"""Reads a user's own texts from ``.csv`` or ``.tsv`` files.

A directory holds ``train``, ``test`` and perhaps ``val``, each ``.csv`` or ``.tsv``, in
UTF-8. The first line names the columns. In ``.csv`` a field in double quotes may hold
commas and line ends; in ``.tsv`` fields are split at tabs alone and quotes are ordinary
characters, as in the files of GLUE.
"""

import csv
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eenet_jax.errors import UserError

Texts = tuple[list[str], np.ndarray]


class _Row(NamedTuple):
    line: int  # where the row begins in its file, from 1
    text: str
    label: str


def find(data_dir: str | os.PathLike[str] | None) -> dict[str, pathlib.Path]:
    """Finds the files of "train", "test" and, if there is one, "val".

    Raises:
      UserError: If ``data_dir`` is no directory, "train" or "test" is missing, or one
        is there as both ``.csv`` and ``.tsv``.
    """
    directory = pathlib.Path(data_dir or "").expanduser()
    if not data_dir or not directory.is_dir():
        raise UserError(
            f"data.dir={str(data_dir or '')!r} is no directory; data.name='csv' needs "
            "the directory of train.csv and test.csv (or .tsv), perhaps val.csv too"
        )
    files = {}
    for name in ("train", "val", "test"):
        found = [directory / f"{name}.{end}" for end in ("csv", "tsv")]
        found = [file for file in found if file.is_file()]
        if len(found) > 1:
            raise UserError(
                f"data.dir={str(data_dir)!r} has both {name}.csv and {name}.tsv; "
                "remove one"
            )
        if found:
            files[name] = found[0]
        elif name != "val":
            raise UserError(
                f"data.dir={str(data_dir)!r} has no {name}.csv or {name}.tsv; "
                "data.name='csv' needs train and test, and takes val"
            )
    return files


def read_csv(
    data_dir: str | os.PathLike[str],
    *,
    text_columns: Sequence[str] = ("text",),
    label_column: str = "label",
) -> tuple[Mapping[str, Texts], tuple[str, ...] | None, int]:
    """Reads and checks the files.

    Labels are numbers 0, 1, ... as soon as one in train is a number, else they are
    class names, and the classes are numbered in the order of the sorted names.

    Args:
      data_dir: The directory of the files.
      text_columns: Columns joined with a space to the text; empty fields are left out.
      label_column: Column of the label.

    Returns:
      Of "train", "test" and perhaps "val" each ``(texts, labels int32 [N])``; the class
      names, None for numbers; the number of classes, from the labels of train.

    Raises:
      UserError: If a file is missing, empty, not UTF-8 or malformed, a column is
        absent, a label is empty, not a number among numbers, or not in train.
    """
    if not text_columns or label_column in text_columns:
        raise UserError(
            f"data.text_columns={tuple(text_columns)} must name a column or more, and "
            f"not data.label_column={label_column!r}"
        )
    files = find(data_dir)
    rows = {
        name: _read(file, text_columns, label_column) for name, file in files.items()
    }
    numbered = any(_is_number(row.label) for row in rows["train"])
    if numbered:
        present = {_number(files["train"], row) for row in rows["train"]}
        absent = next(i for i in range(len(present) + 1) if i not in present)
        if absent < len(present):
            raise UserError(
                f"{files['train']}: no label is {absent}, but one is {max(present)}; "
                "number the classes 0, 1, ... without gaps, or give class names"
            )
        classes = {str(i): i for i in range(len(present))}
    else:
        names = sorted({row.label for row in rows["train"]})
        classes = {name: i for i, name in enumerate(names)}
    if len(classes) < 2:
        raise UserError(
            f"{files['train']}: all labels are {rows['train'][0].label!r}; give at "
            "least two classes"
        )
    parts = {}
    for name, part in rows.items():
        keys = [str(_number(files[name], r)) if numbered else r.label for r in part]
        for row, key in zip(part, keys, strict=True):
            if key not in classes:
                raise UserError(
                    f"{files[name]}, line {row.line}: label {row.label!r} is not among "
                    f"the {len(classes)} of {files['train'].name}; correct it, or add "
                    "examples of it there"
                )
        labels = np.array([classes[key] for key in keys], np.int32)
        parts[name] = [row.text for row in part], labels
    return parts, None if numbered else tuple(classes), len(classes)


def _read(
    file: pathlib.Path, text_columns: Sequence[str], label_column: str
) -> list[_Row]:
    """Reads one file's rows; line numbers are those an editor shows."""
    content = io.StringIO(_decode(file), newline="")
    if file.suffix == ".tsv":
        reader = csv.reader(content, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(content, strict=True)
    rows = []
    header: list[str] | None = None
    line = 1  # where the next row begins
    try:
        for fields in reader:
            first, line = line, reader.line_num + 1
            if not fields:  # a blank line
                continue
            if header is None:
                header = [name.strip() for name in fields]
                columns = _columns(file, header, (*text_columns, label_column))
                continue
            if len(fields) != len(header):
                raise UserError(
                    f"{file}, line {first}: {len(fields)} fields, but the first line "
                    f"names {len(header)} columns; {_quoting(file)}"
                )
            *parts, label = (fields[i] for i in columns)
            label = label.strip()
            if not label:
                raise UserError(
                    f"{file}, line {first}: {label_column!r} is empty; give every "
                    "example a label"
                )
            rows.append(_Row(first, " ".join(filter(None, parts)), label))
    except csv.Error as error:
        raise UserError(f"{file}, line {line}: {error}; {_quoting(file)}") from error
    if not rows:
        reason = "is empty" if header is None else "has no rows below its column names"
        raise UserError(f"{file} {reason}; give it at least one example")
    return rows


def _decode(file: pathlib.Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error}; make it readable") from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")  # Excel's byte order mark
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise UserError(
            f"{file}, line {line}: byte {data[error.start]:#04x} is not UTF-8; save "
            "the file as UTF-8"
        ) from error


def _columns(
    file: pathlib.Path, header: Sequence[str], wanted: Sequence[str]
) -> list[int]:
    for i, name in enumerate(wanted):
        field = "data.label_column" if i == len(wanted) - 1 else "data.text_columns"
        if header.count(name) != 1:
            reason = "two columns" if name in header else "no column"
            raise UserError(
                f"{file} has {reason} {name!r} of {field}; its first line names "
                f"{', '.join(map(repr, header))}"
            )
    return [header.index(name) for name in wanted]


def _quoting(file: pathlib.Path) -> str:
    if file.suffix == ".tsv":
        return "a .tsv text cannot hold tabs or line ends, use .csv for such"
    return 'put texts with commas in double quotes, and write "" for quotes inside'


def _is_number(label: str) -> bool:
    return re.fullmatch("[+-]?[0-9]+", label) is not None


def _number(file: pathlib.Path, row: _Row) -> int:
    if not _is_number(row.label) or int(row.label) < 0:
        raise UserError(
            f"{file}, line {row.line}: label {row.label!r} is not a number from 0, as "
            "others in train are; give all as numbers, or all as names"
        )
    return int(row.label)
