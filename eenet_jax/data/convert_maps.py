"""Sets with a class for every pixel: CamVid and Cityscapes from their authors' files.

Images and label maps are PNG files, stored as they are; labels keep their numbers.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from eenet_jax.data import convert
from eenet_jax.data.convert_files import Archive, Directory, Files
from eenet_jax.errors import UserError

CITYSCAPES_ZIPS = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
_SHARD_SIZE = 250
_NO_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def camvid(files: Files) -> convert.Content:
    """Converts SegNet's form of CamVid: 480 x 360 pixels, 11 classes, 11 is void.

    Raises:
      UserError: If a file is missing or is not what its name says. Of images this shows
        only when they are written.
    """

    def label_of(image: str) -> str:
        folder, _, name = image.rpartition("/")
        return f"{folder}annot/{name}"

    folders = {"train": "train", "validation": "val", "test": "test"}
    splits = {
        split: _split(files, folder, ".png", label_of, ("image", "segmentation_label"))
        for split, folder in folders.items()
    }
    return _content(splits, "image", (360, 480))


def cityscapes(files: Files) -> convert.Content:
    """Converts Cityscapes with fine labels, from its two zips or what is in them.

    The test part, whose labels are not published, is left out.

    Raises:
      UserError: As ``camvid``.
    """
    if isinstance(files, Directory) and files.has(CITYSCAPES_ZIPS[0]):
        files = _zips(files)

    def label_of(image: str) -> str:
        inside = image.removeprefix("leftImg8bit/").removesuffix(_IMAGE)
        return f"gtFine/{inside}{_LABEL}"

    names = "image_left", "segmentation_label"
    splits = {
        split: _split(files, f"leftImg8bit/{folder}", _IMAGE, label_of, names)
        for split, folder in (("train", "train"), ("validation", "val"))
    }
    return _content(splits, "image_left", (1024, 2048))


def _content(
    splits: Mapping[str, convert.Split], image: str, size: tuple[int, int]
) -> convert.Content:
    import tensorflow_datasets as tfds

    features = {
        "image_id": tfds.features.Text(),
        image: tfds.features.Image(shape=(*size, 3)),
        "segmentation_label": tfds.features.Image(shape=(*size, 1)),
    }
    return convert.Content("1.0.0", features, splits, _SHARD_SIZE)


def _split(
    files: Files,
    folder: str,
    suffix: str,
    label_of: Callable[[str], str],
    features: tuple[str, str],
) -> convert.Split:
    """Makes a split of the images below a folder and their label maps."""
    images = [name for name in files.below(folder) if name.endswith(suffix)]
    missing = [name for name in map(label_of, images) if not files.has(name)]
    if missing:
        raise UserError(
            f"--source={str(files.path)!r}: {len(missing)} images of {folder} have no "
            f"labels, {missing[0]} being the first; give {files.what}, whole"
        )
    keys = [name.rpartition("/")[2].removesuffix(suffix) for name in images]

    def example(i: int) -> Mapping[str, Any]:
        pair = _png(files, images[i]), _png(files, label_of(images[i]))
        return {"image_id": keys[i], **dict(zip(features, pair, strict=True))}

    return convert.Split(keys, example)


def _png(files: Files, name: str) -> bytes:
    data = files.read(name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()
    except _NO_IMAGE as error:
        raise files.damaged(name, error) from error
    return data


def _zips(files: Directory) -> Files:
    """Presents the two zips as one."""
    members: dict[str, tuple[zipfile.ZipFile, str]] = {}
    for name in CITYSCAPES_ZIPS:
        if not files.has(name):
            raise UserError(
                f"--source={str(files.path)!r} has no {name}; give {files.what}"
            )
        try:
            archive = zipfile.ZipFile(files.root / name)
        except (OSError, zipfile.BadZipFile) as error:
            raise files.damaged(name, error) from error
        members |= {member: (archive, member) for member in archive.namelist()}
    return Archive(
        files.path, files.what, members, lambda member: member[0].read(member[1])
    )
