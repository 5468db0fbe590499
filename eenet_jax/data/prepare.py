"""Prepares TFDS data sets in the format the sources read (array_record).

    python -m eenet_jax.data.prepare cifar10 --data_dir=DIR

downloads and prepares as TFDS does; TFDS needs TensorFlow for that (training does not).
Fashion-MNIST can be prepared from its four files without either:

    python -m eenet_jax.data.prepare fashion_mnist --data_dir=DIR --source=FILES_DIR

where FILES_DIR holds ``train-images-idx3-ubyte.gz`` and so on. Debian and Ubuntu have
them: ``apt install dataset-fashion-mnist`` puts them in
``/usr/share/datasets/fashion-mnist``, which is where they are looked for by default.
"""

import argparse
import gzip
import importlib.util
import io
import pathlib
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from eenet_jax.data import sources, tfds_reader
from eenet_jax.errors import UserError

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# What TFDS imports while preparing, beside its own requirements.
NEEDS = {name: ("tensorflow",) for name in sources.TFDS}
NEEDS["svhn_cropped"] = ("tensorflow", "scipy")


def download(name: str, data_dir: pathlib.Path) -> None:
    """Lets TFDS download and prepare a data set.

    Raises:
      UserError: If a package TFDS needs for it is missing, or the download fails.
    """
    missing = [p for p in NEEDS[name] if importlib.util.find_spec(p) is None]
    if missing:
        raise UserError(
            f"TFDS needs {' and '.join(missing)} to prepare {name}; install with: "
            f"pip install {' '.join(missing)}"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    try:
        builder.download_and_prepare(file_format="array_record")
    except OSError as error:  # of requests too
        raise UserError(f"cannot prepare {name} in {data_dir}: {error}") from error


def convert_fashion_mnist(source: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Writes Fashion-MNIST's four IDX files as a TFDS set, without TensorFlow.

    Args:
      source: The directory of the four ``.gz`` files.
      data_dir: The TFDS directory to write ``fashion_mnist/3.0.1`` into.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    arrays = {"train": read_idx(source, "train"), "test": read_idx(source, "t10k")}
    import tensorflow_datasets as tfds

    class FashionMnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Fashion-MNIST from files at hand."""

        VERSION = tfds.core.Version("3.0.1")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(names=CLASSES),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager: Any) -> Mapping[str, Any]:
            del dl_manager
            return {
                split: self._generate_examples(*pair) for split, pair in arrays.items()
            }

        def _generate_examples(
            self, images: np.ndarray, labels: np.ndarray
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                # Already encoded: TFDS would encode an array with TensorFlow.
                encoded = io.BytesIO()
                Image.fromarray(image).save(encoded, format="PNG")
                encoded.seek(0)
                yield i, {"image": encoded, "label": int(label)}

    FashionMnist.name = "fashion_mnist"
    builder = FashionMnist(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()


def read_idx(source: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one part of Fashion-MNIST from its two gzipped IDX files.

    Args:
      source: The directory of the files.
      part: "train" or "t10k", as the file names begin.

    Returns:
      Images uint8 ``[N, 28, 28]`` and labels uint8 ``[N]``.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    images = _idx(source / f"{part}-images-idx3-ubyte.gz", (28, 28))
    labels = _idx(source / f"{part}-labels-idx1-ubyte.gz", ())
    if len(images) != len(labels):
        raise UserError(
            f"{source} has {len(images)} {part} images but {len(labels)} labels; get "
            "both files from one place"
        )
    return images, labels


def _idx(path: pathlib.Path, item_shape: tuple[int, ...]) -> np.ndarray:
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"--source={str(path.parent)!r} has no {path.name}; give the directory of "
            "the four Fashion-MNIST files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; get it again") from error
    # Two zero bytes, 8 for uint8, the number of axes, their sizes as big-endian int32.
    start = 4 + 4 * (1 + len(item_shape))
    count = int.from_bytes(data[4:8], "big")
    shape = (count, *item_shape)
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    if data[:start] != header or len(data) != start + np.prod(shape):
        raise UserError(
            f"{path} is not an IDX file of uint8 {('N', *item_shape)}; get it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def prepare(
    name: str, data_dir: pathlib.Path, source: pathlib.Path | None = None
) -> None:
    """Prepares a data set unless it stands already, and says where it is.

    Args:
      name: One of ``sources.TFDS``.
      data_dir: The TFDS directory.
      source: Where files to convert lie; for fashion_mnist only.

    Raises:
      UserError: If it cannot be prepared, or stands in another format.
    """
    if source is not None and name != "fashion_mnist":
        raise UserError(
            f"--source={str(source)!r} is for fashion_mnist only; {name} is downloaded"
        )
    if tfds_reader.newest(data_dir / name) is None:
        if name == "fashion_mnist" and (source or DEBIAN.is_dir()):
            convert_fashion_mnist(source or DEBIAN, data_dir)
        else:
            download(name, data_dir)
    print(f"{name} is in {tfds_reader.find(name, data_dir)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eenet_jax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(sources.TFDS))
    parser.add_argument("--data_dir", help="TFDS directory; default: that of TFDS")
    parser.add_argument("--source", type=pathlib.Path, help="directory of the files")
    args = parser.parse_args(argv)
    try:
        prepare(args.name, tfds_reader.resolve(args.data_dir), args.source)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
