"""Images and texts from files to rows of CSV, by an exported bundle."""

import csv
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from eenet_jax.data import decode, text_tokens
from eenet_jax.data.folder import SUFFIXES
from eenet_jax.errors import UserError
from eenet_jax.runtime.bundle import Bundle

Chunk = tuple[Sequence[Any], Any]  # what the inputs are called, and the inputs


def read_inputs(bundle: Bundle, path: pathlib.Path) -> Iterator[Chunk]:
    """Yields names and inputs, images as many at a time as the largest batch holds.

    Raises:
      UserError: If there are none, they are of the wrong kind, or cannot be read.
    """
    spec = bundle.manifest["input"]
    if not path.exists():
        raise UserError(f"--input={path} is not there; check the path")
    if spec["kind"] == "text":
        if path.suffix.lower() != ".txt":
            raise UserError(
                f"--input={path}: the bundle reads texts; give a .txt file with one "
                "text a line"
            )
        yield _texts(bundle, path)
    elif path.suffix.lower() == ".npy":
        x = _array(path)
        yield range(len(x)), x
    else:
        files = [path] if path.is_file() else _image_files(path)
        size = bundle.batch_sizes[-1]
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            names = [file.relative_to(path) for file in chunk if file != path]
            yield names or chunk, np.stack([_image(spec, file) for file in chunk])


def write_answers(bundle: Bundle, path: pathlib.Path, stream: TextIO) -> int:
    """Answers all inputs and writes a row of CSV for each.

    Args:
      bundle: The network.
      path: Of the inputs.
      stream: Where to write.

    Returns:
      How many there were.

    Raises:
      UserError: If they cannot be read or do not fit.
    """
    names = bundle.manifest["class_names"]
    if len(bundle.answer_shape) > 1:
        raise UserError(
            f"{bundle.path} answers with maps, which are no rows of CSV; in Python, "
            "eenet_jax.runtime.bundle.load_bundle(BUNDLE).predict(x) returns them"
        )
    writer, count = csv.writer(stream, lineterminator="\n"), 0
    for inputs, x in read_inputs(bundle, path):
        try:
            found = bundle.predict(x)
        except UserError as error:
            raise UserError(f"--input={path}: {error}") from None
        if not count:
            name_column = ["class_name"] if names else []
            writer.writerow(["input", "label", *name_column, "probability", "exit"])
        columns = zip(inputs, found.probs, found.label, found.exit_index, strict=True)
        for given, probs, label, exit_index in columns:
            name = [names[label]] if names else []
            writer.writerow([given, label, *name, probs[label], exit_index + 1])
        count += len(found.label)
    return count


def _image_files(directory: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(
        path
        for path in directory.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise UserError(f"--input={directory} has no images ({' '.join(SUFFIXES)})")
    return files


def _image(spec: dict[str, Any], file: pathlib.Path) -> np.ndarray:
    """Decodes an image as evaluation does, uint8 ``[H, W, C]``."""
    height, width, _ = spec["shape"]
    try:
        data = file.read_bytes()
        if spec["resize"] is not None:
            return decode.eval_image(data, height, spec["resize"])
        pixels = decode.whole_image(data)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(f"{file} {error}") from None
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{file} has {pixels.shape[1]} x {pixels.shape[0]} pixels (width x "
            f"height), the network was trained on {width} x {height}; resize it"
        )
    if len(spec["mean"]) == 1:
        if (pixels != pixels[..., :1]).any():
            raise UserError(
                f"{file} is in colour, but the network was trained on grey images; "
                "convert it"
            )
        pixels = pixels[..., :1]
    return pixels


def _array(path: pathlib.Path) -> np.ndarray:
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # np.load has many ways to fail on a damaged file
        raise UserError(
            f"--input={path} cannot be read as .npy ({type(error).__name__}: {error}); "
            "write it with numpy.save"
        ) from None
    if x.ndim == 0 or not len(x):
        raise UserError(f"--input={path} holds no samples (shape {list(x.shape)})")
    return x


def _texts(bundle: Bundle, path: pathlib.Path) -> Chunk:
    spec = bundle.manifest["input"]
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"--input={path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--input={path} is not UTF-8 ({error}); convert it") from None
    texts = [line.removesuffix("\r") for line in lines]
    if texts == [""]:
        raise UserError(f"--input={path} holds no text; give one a line")
    tokenizer = text_tokens.load_tokenizer(bundle.path / spec["tokenizer"])
    ids, lengths = text_tokens.encode(tokenizer, texts, spec["max_length"])
    mask = np.arange(ids.shape[1])[None] < lengths[:, None]
    return texts, {"ids": ids, "mask": mask}
