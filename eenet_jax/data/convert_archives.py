"""What is where in a .zip, .tar or .tar.gz archive, and reading it from there.

Nothing is unpacked under its own name, so no name in an archive can lead out of it. A
.tar.gz can be read from its beginning only and becomes a temporary tar first.
"""

import contextlib
import gzip
import pathlib
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any

from tqdm import tqdm

from eenet_jax.errors import UserError

# What reading a damaged archive raises; RuntimeError where a zip is encrypted.
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    zlib.error,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def open_archive(
    path: pathlib.Path, scratch: pathlib.Path, stack: contextlib.ExitStack
) -> tuple[dict[str, Any], Callable[[Any], bytes]]:
    """Opens an archive.

    Args:
      path: The archive.
      scratch: Where a .tar.gz is decompressed to; made if need be.
      stack: What keeps files open as long as they are read.

    Returns:
      Its regular files by name, and what turns a value of that into a file's content.

    Raises:
      UserError: If a name leads out of the archive.
      Exception: One of ``DAMAGED`` if it cannot be read, as ``fetch`` may too.
    """
    file = stack.enter_context(path.open("rb"))
    magic = file.read(2)
    file.seek(0)
    if magic == b"PK":
        archive = stack.enter_context(zipfile.ZipFile(file))
        members = {m.filename: m for m in archive.infolist() if not m.is_dir()}
        fetch = archive.read
    else:
        if magic == b"\x1f\x8b":
            scratch.mkdir(parents=True, exist_ok=True)
            unpacked = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
            _decompress(file, unpacked, path)
            file = unpacked
        members = tar_members(file)

        def fetch(span: tuple[int, int]) -> bytes:
            return read_span(file, span)

    members = {name.removeprefix("./"): member for name, member in members.items()}
    for name in members:
        parts = pathlib.PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(
                f"--source={str(path)!r} holds {name!r}, a path that leads out of it; "
                "such an archive is not to be trusted, get it again"
            )
    return members, fetch


def tar_members(file: IO[bytes]) -> dict[str, tuple[int, int]]:
    """Finds the regular files of an uncompressed tar.

    Args:
      file: The tar, open at its beginning.

    Returns:
      Offset and size in bytes of each file's content, by its name.

    Raises:
      tarfile.TarError: If it is no tar or is cut off.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        return {m.name: (m.offset_data, m.size) for m in tar if m.isreg()}


def read_span(file: IO[bytes], span: tuple[int, int]) -> bytes:
    """Reads ``(offset, size)`` of a file.

    Raises:
      EOFError: If the file ends before.
    """
    offset, size = span
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"the file ends {size - len(data)} bytes early")
    return data


def _decompress(file: IO[bytes], unpacked: IO[bytes], path: pathlib.Path) -> None:
    with (
        gzip.GzipFile(fileobj=file) as stream,
        tqdm(
            total=path.stat().st_size,
            desc=f"decompressing {path.name}",
            unit="B",
            unit_scale=True,
            disable=None,
            delay=2,
            leave=False,
        ) as bar,
    ):
        while block := stream.read(1 << 20):
            unpacked.write(block)
            bar.update(file.tell() - bar.n)
    unpacked.seek(0)
