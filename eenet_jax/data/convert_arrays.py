"""Image sets whose files are plain arrays: Fashion-MNIST, SVHN, STL-10."""

import gzip
import importlib.util
import io
import zlib

import numpy as np

from eenet_jax.data import convert
from eenet_jax.data.convert_files import Files
from eenet_jax.errors import UserError

FASHION_MNIST = (
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


def fashion_mnist(files: Files) -> convert.Content:
    """Converts the four gzipped IDX files.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    splits = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        images = _idx(files, f"{part}-images-idx3-ubyte.gz", (28, 28))
        labels = _idx(files, name := f"{part}-labels-idx1-ubyte.gz", ())
        _check(files, name, images, labels, 0, 9)
        splits[split] = convert.pixels(images[..., None], label=labels)
    features = {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(names=FASHION_MNIST),
    }
    return convert.Content("3.0.1", features, splits)


def _idx(files: Files, name: str, item_shape: tuple[int, ...]) -> np.ndarray:
    try:
        data = gzip.decompress(files.read(name))
    except (OSError, EOFError, zlib.error) as error:
        raise files.damaged(name, error) from error
    # Two zero bytes, 8 for uint8, the number of axes, their sizes as big-endian int32.
    start = 4 + 4 * (1 + len(item_shape))
    count = int.from_bytes(data[4:8], "big")
    shape = (count, *item_shape)
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    if data[:start] != header or len(data) != start + np.prod(shape):
        form = ("N", *item_shape)
        raise files.damaged(name, f"it is not an IDX file of uint8 {form}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def svhn_cropped(files: Files) -> convert.Content:
    """Converts the two MATLAB files; the label 10 of a zero becomes 0.

    Raises:
      UserError: If SciPy is missing, a file is, or it is not what its name says.
    """
    import tensorflow_datasets as tfds

    if importlib.util.find_spec("scipy") is None:
        raise UserError(
            "reading the MATLAB files of svhn_cropped needs scipy; install it with: "
            "pip install scipy"
        )
    splits = {}
    for split in ("train", "test"):
        images, labels = _mat(files, f"{split}_32x32.mat")
        ids = [f"{split}_{i:06d}" for i in range(len(images))]
        splits[split] = convert.pixels(images, label=labels % 10, id=ids)
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    return convert.Content("3.1.0", features, splits)


def _mat(files: Files, name: str) -> tuple[np.ndarray, np.ndarray]:
    import scipy.io

    data = files.read(name)
    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=("X", "y"))
    except Exception as error:  # a damaged file raises nearly anything
        raise files.damaged(name, error) from error
    images, labels = content.get("X"), content.get("y")
    if (
        not (isinstance(images, np.ndarray) and isinstance(labels, np.ndarray))
        or images.dtype != np.uint8
        or images.shape[:-1] != (32, 32, 3)
        or labels.dtype.kind not in "ui"
    ):
        raise files.damaged(name, "it has no X, uint8 [32, 32, 3, N], with integers y")
    images, labels = np.moveaxis(images, -1, 0), labels.reshape(-1)
    _check(files, name, images, labels, 1, 10)
    return images, labels


def stl10(files: Files) -> convert.Content:
    """Converts the binary files of STL-10's labelled parts.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    names = files.read("class_names.txt").decode("utf-8", "replace").split()
    if len(set(names)) != 10:
        raise files.damaged("class_names.txt", f"it has {len(names)} names, not 10")
    splits = {}
    for split in ("train", "test"):
        data = np.frombuffer(files.read(name := f"{split}_X.bin"), np.uint8)
        if not data.size or data.size % (3 * 96 * 96):
            raise files.damaged(name, f"{data.size} bytes are no images of 96x96x3")
        images = data.reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)  # column by column
        labels = np.frombuffer(files.read(name := f"{split}_y.bin"), np.uint8)
        _check(files, name, images, labels, 1, 10)
        splits[split] = convert.pixels(images, label=labels - 1)
    features = {
        "image": tfds.features.Image(shape=(96, 96, 3)),
        "label": tfds.features.ClassLabel(names=names),
    }
    return convert.Content("1.0.0", features, splits)


def _check(
    files: Files,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    lowest: int,
    highest: int,
) -> None:
    if len(images) != len(labels):
        raise UserError(
            f"--source={str(files.path)!r}: {name} has {len(labels)} labels for "
            f"{len(images)} images; get all files from one place"
        )
    convert.check_labels(labels, lowest, highest, f"{files.path}: {name}")
