"""The files of --source, a directory or an archive, read one at a time."""

import abc
import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from eenet_jax.data import convert_archives
from eenet_jax.errors import UserError


class Files(abc.ABC):
    """Files by their path below a root, with "/" between the parts.

    Attributes:
      path: What the user gave as --source.
      what: What --source should be, for messages.
    """

    def __init__(self, path: pathlib.Path, what: str):
        self.path = path
        self.what = what

    @abc.abstractmethod
    def has(self, name: str) -> bool:
        """Says whether there is such a file."""

    @abc.abstractmethod
    def below(self, folder: str) -> list[str]:
        """Returns the paths of the files below a folder, sorted, less hidden ones.

        Raises:
          UserError: If a folder cannot be listed. One that is not there has no files.
        """

    @abc.abstractmethod
    def _read(self, name: str) -> bytes: ...

    def read(self, name: str) -> bytes:
        """Returns a file's content.

        Raises:
          UserError: If there is no such file or it cannot be read.
        """
        if not self.has(name):
            raise UserError(
                f"--source={str(self.path)!r} has no {name}; give {self.what}"
            )
        try:
            return self._read(name)
        except convert_archives.DAMAGED as error:
            raise self.damaged(name, error) from error

    def damaged(self, name: str, error: Exception | str) -> UserError:
        """Returns the error to raise about a file that is not what it should be."""
        return UserError(
            f"--source={str(self.path)!r}: cannot read {name}: {error}; get it again"
        )


class Directory(Files):
    """The files of a directory.

    Attributes:
      root: What paths are relative to.
    """

    def __init__(self, path: pathlib.Path, what: str, root: pathlib.Path):
        super().__init__(path, what)
        self.root = root

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def below(self, folder: str) -> list[str]:
        def refuse(error: OSError) -> None:
            raise self.damaged(folder, error) from error

        if not (self.root / folder).is_dir():
            return []
        found = []
        walk = tqdm(
            os.walk(self.root / folder, followlinks=True, onerror=refuse),
            desc=f"listing {folder}",
            unit=" folders",
            disable=None,
            delay=2,
            leave=False,
        )
        for directory, folders, names in walk:
            folders[:] = [name for name in folders if not name.startswith(".")]
            prefix = pathlib.Path(directory).relative_to(self.root).as_posix()
            found += [f"{prefix}/{name}" for name in names if not name.startswith(".")]
        return sorted(found)

    def _read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()


class Archive(Files):
    """The files of an archive, each with what finds its content there."""

    def __init__(
        self,
        path: pathlib.Path,
        what: str,
        members: Mapping[str, Any],
        fetch: Callable[[Any], bytes],
    ):
        super().__init__(path, what)
        self._members = members
        self._fetch = fetch

    def has(self, name: str) -> bool:
        return name in self._members

    def below(self, folder: str) -> list[str]:
        return sorted(
            name
            for name in self._members
            if name.startswith(f"{folder}/") and "/." not in name
        )

    def _read(self, name: str) -> bytes:
        return self._fetch(self._members[name])


@contextlib.contextmanager
def open_source(
    path: pathlib.Path, markers: Sequence[str], what: str, scratch: pathlib.Path
) -> Iterator[Files]:
    """Opens what the user gave as --source.

    Args:
      path: A directory, or a .zip, .tar or .tar.gz archive.
      markers: Files or folders of which the root has at least one. The root is ``path``
        itself, or the one folder in it that has such.
      what: What --source should be, for messages.
      scratch: Where a .tar.gz is decompressed to; made if need be.

    Yields:
      Its files, by their path below the root.

    Raises:
      UserError: If there is no such path, it is neither directory nor archive, is
        damaged, holds names that lead out of it, or has no or several such roots.
    """
    if not path.exists():
        raise UserError(f"--source={str(path)!r} does not exist; give {what}")
    if path.is_dir():
        root = _one(path, markers, what, _folders(path, markers))
        yield Directory(path, what, path / root)
        return
    with contextlib.ExitStack() as stack:
        try:
            members, fetch = convert_archives.open_archive(path, scratch, stack)
        except convert_archives.DAMAGED as error:
            raise UserError(
                f"cannot read --source={str(path)!r}: {error}; give {what}, whole"
            ) from error
        root = _one(path, markers, what, _prefixes(members, markers))
        rooted = {
            name.removeprefix(root): member
            for name, member in members.items()
            if name.startswith(root)
        }
        yield Archive(path, what, rooted, fetch)


def _folders(path: pathlib.Path, markers: Sequence[str]) -> list[str]:
    """Returns the folders of a directory, "" for itself, that have a marker."""
    try:
        folders = sorted(p.name for p in path.iterdir() if p.is_dir())
    except OSError as error:
        raise UserError(f"cannot list --source={str(path)!r}: {error}") from error
    return [
        folder
        for folder in ("", *folders)
        if any((path / folder / marker).exists() for marker in markers)
    ]


def _prefixes(names: Iterable[str], markers: Sequence[str]) -> list[str]:
    """Returns the same of an archive, each with its "/"."""
    found = set()
    for name in names:
        first, slash, rest = name.partition("/")
        for prefix, tail in (("", name), (first + slash, rest)):
            if any(tail == m or tail.startswith(f"{m}/") for m in markers):
                found.add(prefix)
    return sorted(found)


def _one(
    path: pathlib.Path, markers: Sequence[str], what: str, roots: Sequence[str]
) -> str:
    if "" in roots:
        return ""
    if len(roots) > 1:
        raise UserError(
            f"--source={str(path)!r} holds {' and '.join(roots)}; give one of them"
        )
    if not roots:
        raise UserError(
            f"--source={str(path)!r} has no {' or '.join(markers)}; give {what}"
        )
    return roots[0]
