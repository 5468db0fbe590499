"""Image sets whose files are JPEG images by class: ImageNet and its subsets.

A class is called by its WordNet number, WNID, such as n01440764; labels count them in
sorted order. Images are read one at a time, while they are written.
"""

import io
import pathlib
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from eenet_jax.data import convert
from eenet_jax.data.convert_archives import DAMAGED, read_span, tar_members
from eenet_jax.data.convert_files import Archive, Directory, Files
from eenet_jax.errors import UserError

IMAGENETTE = (
    "n01440764",
    "n02102040",
    "n02979186",
    "n03000684",
    "n03028079",
    "n03394916",
    "n03417042",
    "n03425413",
    "n03445777",
    "n03888257",
)
IMAGENET_TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
_SUFFIXES = (".jpeg", ".jpg", ".png")
_SHARD_SIZE = 1252  # makes 1,024 files of ImageNet's training part
_NO_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


def tiny_imagenet(files: Files) -> convert.Content:
    """Converts the directory ``tiny-imagenet-200``.

    Images that are not RGB, some are grey, are stored as RGB in PNG; others as they
    are. The test part has no labels and is left out.

    Raises:
      UserError: If a file is missing or is not what its name says. Of images this shows
        only when they are written.
    """
    import tensorflow_datasets as tfds

    classes = sorted(files.read("wnids.txt").decode("utf-8", "replace").split())
    if len(classes) != 200 or len(set(classes)) != 200:
        raise files.damaged("wnids.txt", f"it has {len(classes)} classes, not 200")

    def encode(name: str) -> Mapping[str, Any]:
        return {"image": _rgb_of_size(files, name, (64, 64))}

    splits = {
        "train": _split(files, "train", classes, _folder, encode),
        # Some copies have val sorted by class, as train is.
        "validation": _split(files, "val", classes, _annotated(files), encode),
    }
    features = {
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "label": tfds.features.ClassLabel(names=classes),
    }
    return convert.Content("1.0.0", features, splits)


def imagenette(files: Files) -> convert.Content:
    """Converts the directory ``imagenette2``, of any image size.

    Raises:
      UserError: If a file is missing or is not what its name says. Of images this shows
        only when they are written.
    """
    import tensorflow_datasets as tfds

    def encode(name: str) -> Mapping[str, Any]:
        return {"image": _jpeg(files, name)}

    splits = {
        "train": _split(files, "train", IMAGENETTE, _folder, encode),
        "validation": _split(files, "val", IMAGENETTE, _folder, encode),
    }
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=IMAGENETTE),
    }
    return convert.Content("1.0.0", features, splits, _SHARD_SIZE)


def imagenet2012(files: Files) -> convert.Content:
    """Converts ILSVRC 2012, from class directories or from its two tars.

    The validation images may be by class or all in ``val``; for the latter, as in the
    tar, TFDS has the labels. Names and offsets are in memory, images are not.

    Raises:
      UserError: If a file is missing or is not what its name says. Of images this shows
        only when they are written.
    """
    import tensorflow_datasets as tfds

    facts = pathlib.Path(tfds.core.tfds_path("datasets/imagenet2012"))
    classes = (facts / "labels.txt").read_text().split()
    val_wnids = (facts / "validation_labels.txt").read_text().split()
    if isinstance(files, Directory) and files.has(IMAGENET_TARS[0]):
        files = _imagenet_tars(files)

    def encode(name: str) -> Mapping[str, Any]:
        return {"image": _jpeg(files, name), "file_name": _last(name)}

    def val_wnid(name: str) -> str:
        number = _last(name).removeprefix("ILSVRC2012_val_").partition(".")[0]
        if name.count("/") > 1 or not number.isdecimal():
            return _folder(name)
        position = int(number) - 1
        return val_wnids[position] if 0 <= position < len(val_wnids) else ""

    splits = {
        "train": _split(files, "train", classes, _folder, encode),
        "validation": _split(files, "val", classes, val_wnid, encode),
    }
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=classes),
        "file_name": tfds.features.Text(),
    }
    return convert.Content("5.1.0", features, splits, _SHARD_SIZE)


def _split(
    files: Files,
    folder: str,
    classes: Sequence[str],
    wnid_of: Callable[[str], str],
    encode: Callable[[str], Mapping[str, Any]],
) -> convert.Split:
    """Makes a split of the images below a folder.

    ``wnid_of`` says an image's class and ``encode`` makes its features but the label.
    """
    names = [n for n in files.below(folder) if n.lower().endswith(_SUFFIXES)]
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    labels = np.empty(len(names), np.int32)
    for i, name in enumerate(names):
        if (label := label_of.get(wnid_of(name))) is None:
            raise UserError(
                f"--source={str(files.path)!r}: {name} has none of the set's "
                f"{len(classes)} classes, {classes[0]} to {classes[-1]}; remove it, or "
                f"give {files.what}"
            )
        labels[i] = label
    without = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if without.size:
        raise UserError(
            f"--source={str(files.path)!r}: {folder} has no images of {without.size} "
            f"classes, {classes[without[0]]} being the first; give {files.what}, whole"
        )

    def example(i: int) -> Mapping[str, Any]:
        return {**encode(names[i]), "label": int(labels[i])}

    return convert.Split([_last(name) for name in names], example)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _folder(name: str) -> str:
    return name.split("/")[1]


def _annotated(files: Files) -> Callable[[str], str]:
    """Returns what says the class of Tiny ImageNet's validation images."""
    wnids = {}
    if files.below("val/images"):
        name = "val/val_annotations.txt"
        for line in files.read(name).decode("utf-8", "replace").splitlines():
            image, _, rest = line.partition("\t")
            wnids[f"val/images/{image}"] = rest.partition("\t")[0]

    def wnid_of(name: str) -> str:
        in_images = name.startswith("val/images/")
        return wnids.get(name, "") if in_images else _folder(name)

    return wnid_of


def _imagenet_tars(files: Directory) -> Files:
    """Presents ILSVRC's two tars, the first being one of tars, as train and val."""
    paths = [files.root / name for name in IMAGENET_TARS]
    members: dict[str, tuple[pathlib.Path, tuple[int, int]]] = {}
    try:
        with tarfile.open(paths[0], "r:") as outer:
            bar = tqdm(
                outer,
                desc=f"listing {paths[0].name}",
                unit=" classes",
                disable=None,
                delay=2,
                leave=False,
            )
            for inner in bar:
                if not inner.name.endswith(".tar"):
                    continue
                wnid = _last(inner.name).removesuffix(".tar")
                start = inner.offset_data
                spans = tar_members(outer.extractfile(inner))
                for name, (offset, size) in spans.items():
                    key = f"train/{wnid}/{_last(name)}"
                    members[key] = paths[0], (start + offset, size)
        with paths[1].open("rb") as file:
            for name, span in tar_members(file).items():
                members[f"val/{_last(name)}"] = paths[1], span
    except DAMAGED as error:
        raise files.damaged(" or ".join(IMAGENET_TARS), error) from error

    def fetch(member: tuple[pathlib.Path, tuple[int, int]]) -> bytes:
        with member[0].open("rb") as file:
            return read_span(file, member[1])

    return Archive(files.path, files.what, members, fetch)


def _jpeg(files: Files, name: str) -> bytes:
    """Returns an image as it is if it is a JPEG in colour or grey, else makes it one.

    ImageNet has a PNG and some CMYK images, which few decoders take for JPEGs.
    """
    data = files.read(name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                return data
            encoded = io.BytesIO()
            rgb = image.convert("RGB")
            rgb.save(encoded, format="JPEG", quality=100, subsampling=0)
            return encoded.getvalue()
    except _NO_IMAGE as error:
        raise files.damaged(name, error) from error


def _rgb_of_size(files: Files, name: str, size: tuple[int, int]) -> bytes:
    data = files.read(name)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.size != size:
                raise files.damaged(name, f"its size is {image.size}, not {size}")
            if image.mode == "RGB":
                return data
            return convert.png(np.asarray(image.convert("RGB")))
    except UserError:
        raise
    except _NO_IMAGE as error:
        raise files.damaged(name, error) from error
