"""A user's own images, in a directory for each class.

``DIR/train/CLASS/*.jpg`` and ``DIR/test/CLASS/*.jpg`` (any format that Pillow reads,
any depth below CLASS), and ``DIR/val/CLASS/`` if validation is not to be taken from
train.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from eenet_jax.data import decode
from eenet_jax.errors import UserError

NEEDED = ("train", "test")
# As torchvision's ImageFolder, and GIF (its first frame).
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".tif", ".tiff"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRecords:
    """Image files and their labels, as ``stream.Records``.

    Attributes:
      root: Directory that the paths start from.
      paths: Relative paths as bytes, ``[N]``: quick to send to worker processes.
      labels: int32 ``[N]``.
    """

    root: str
    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        """Returns a file's content and its label.

        Raises:
          UserError: If the file cannot be read.
        """
        path = self.name(row)
        try:
            with open(path, "rb") as stream:
                return stream.read(), int(self.labels[row])
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error

    def name(self, row: int) -> str:
        """Returns the file's path."""
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[row])))


def find(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Returns the directory of ``train`` and ``test``, without looking into them.

    Raises:
      UserError: If they are not there; the message says what belongs where.
    """
    root = pathlib.Path(data_dir or "").expanduser()
    missing = [part for part in NEEDED if not (data_dir and (root / part).is_dir())]
    if not missing:
        return root
    hint = ""
    if missing == ["test"] and (root / "val").is_dir():
        hint = "; to report on the images of val, rename it to test"
    raise UserError(
        f"data.dir={str(data_dir or '')!r} has no directory "
        f"{' and no '.join(missing)}; "
        "data.name='folder' needs DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, and "
        f"reads DIR/val/CLASS/ where there is one{hint}"
    )


def read(root: pathlib.Path) -> tuple[dict[str, FolderRecords], tuple[str, ...]]:
    """Lists the images without opening them.

    Args:
      root: What ``find`` returned.

    Returns:
      The records of "train", "test" and, where there is one, "val", sorted by class and
      path; and the classes' names, sorted, which give the labels.

    Raises:
      UserError: If there are fewer than two classes, a class directory has no images,
        or another part has a class that train lacks.
    """
    names = _subdirectories(root / "train")
    if len(names) < 2:
        raise UserError(
            f"{root / 'train'} has {len(names)} class directories, must have at least "
            "2: put the images of each class into a directory of its own"
        )
    parts = [*NEEDED, *(["val"] if (root / "val").is_dir() else [])]
    return {part: _records(root / part, names) for part in parts}, tuple(names)


def small_size(records: FolderRecords, most: int = 64) -> tuple[int, int] | None:
    """Returns height and width of the first image if the images seem to be small.

    Args:
      records: The images; up to 16 of them, spread evenly, are looked at.
      most: Largest height and width of a small image, in pixels.

    Returns:
      Height and width, or None if one of those images exceeds ``most``.

    Raises:
      UserError: If one of them cannot be decoded, with its path.
    """
    rows = np.linspace(0, len(records) - 1, min(16, len(records))).astype(int)
    sizes = [_image(records, row).shape[:2] for row in rows]
    return sizes[0] if max(map(max, sizes)) <= most else None


def load_arrays(records: FolderRecords, size: tuple[int, int]) -> np.ndarray:
    """Decodes all images into memory.

    Args:
      records: The images.
      size: Height and width that each must have, in pixels.

    Returns:
      uint8 ``[N, H, W, 3]``.

    Raises:
      UserError: If an image has another size or cannot be decoded, with its path.
    """
    images = np.empty((len(records), *size, 3), np.uint8)
    rows = range(len(records))
    for row in tqdm(
        rows, "reading images", unit=" images", disable=None, delay=2, leave=False
    ):
        image = _image(records, row)
        if image.shape[:2] != size:
            found, wanted = (
                f"{width} x {height}" for height, width in (image.shape[:2], size)
            )
            raise UserError(
                f"{records.name(row)} has {found} pixels (width x height), but the "
                f"first image of train {wanted}; give small images one size"
            )
        images[row] = image
    return images


def _image(records: FolderRecords, row: int) -> np.ndarray:
    data, _ = records[row]
    try:
        return decode.whole_image(data)
    except UserError as error:
        raise UserError(f"{records.name(row)} {error}") from error


def _subdirectories(directory: pathlib.Path) -> list[str]:
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith("."))


def _records(directory: pathlib.Path, names: list[str]) -> FolderRecords:
    present = _subdirectories(directory)
    unknown = sorted(set(present) - set(names))
    if unknown:
        raise UserError(
            f"{directory} has {_some(unknown)}, of which train has no images; the "
            f"classes are {_some(names)}"
        )
    if not present:
        raise UserError(
            f"{directory} has no class directories; the classes are {_some(names)}"
        )
    paths, labels = [], []
    for name in present:
        found = sorted(_images(directory / name))
        if not found:
            raise UserError(
                f"{directory / name} has no images ({' '.join(SUFFIXES)}); add some or "
                "remove the directory"
            )
        paths += [os.fsencode(os.path.join(name, path)) for path in found]
        labels += [names.index(name)] * len(found)
    return FolderRecords(str(directory), np.array(paths), np.array(labels, np.int32))


def _images(directory: pathlib.Path) -> Iterator[str]:
    """Yields the paths of the images below a directory, relative to it."""
    for place, subdirectories, files in os.walk(directory, followlinks=True):
        subdirectories[:] = [s for s in subdirectories if not s.startswith(".")]
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield os.path.relpath(os.path.join(place, file), directory)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" * (len(names) > 5))
