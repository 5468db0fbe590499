"""Files that are written whole or not at all."""

import contextlib
import csv
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from eenet_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary path that takes the place of ``path`` if all goes well.

    Args:
      path: The file to write; its directory is there.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_table(path: pathlib.Path, rows: Sequence[Sequence[str]]) -> None:
    """Writes rows as CSV, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def save_arrays(path: pathlib.Path, arrays: Mapping[str, object]) -> None:
    """Writes an ``.npz`` file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an ``.npz`` file.

    Raises:
      UserError: If it is missing, empty, damaged, or holds Python objects.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; make it anew")
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UserError(f"{path} is no .npz archive; write it with numpy.savez")
        with file:
            return {name: file[name] for name in file.files}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is not there; check the path") from None
    except Exception as error:  # np.load has many ways to fail on a damaged file
        raise UserError(
            f"{path} cannot be read as .npz ({type(error).__name__}: {error}); write "
            "it with numpy.savez, without Python objects"
        ) from None


def make_directory(directory: pathlib.Path, flag: str) -> None:
    """Makes the directory of a result, so that a bad one is refused before any work.

    Raises:
      UserError: If it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--{flag}={directory} cannot be made ({error.strerror}); name a "
            "directory that you can write to"
        ) from None
