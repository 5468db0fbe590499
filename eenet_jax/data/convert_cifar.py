"""CIFAR-10 and CIFAR-100 from their Python archives.

The batches are pickles, and a pickle can run any code. These hold nothing but NumPy
arrays, lists and strings, so the unpickler here makes only those.
"""

import io
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eenet_jax.data import convert
from eenet_jax.data.convert_files import Files

_BYTES = 32 * 32 * 3


def cifar10(files: Files) -> convert.Content:
    """Converts the directory ``cifar-10-batches-py``.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    names = _class_names(files, "batches.meta", b"label_names", 10)
    train = [f"data_batch_{i}" for i in range(1, 6)]
    return convert.Content(
        "3.0.2",
        _features(tfds, label=names),
        {
            "train": _split(files, "train", train, {"label": (b"labels", 10)}),
            "test": _split(files, "test", ["test_batch"], {"label": (b"labels", 10)}),
        },
    )


def cifar100(files: Files) -> convert.Content:
    """Converts the directory ``cifar-100-python``; ``label`` is the fine one.

    Raises:
      UserError: If a file is missing or is not what its name says.
    """
    import tensorflow_datasets as tfds

    fine = _class_names(files, "meta", b"fine_label_names", 100)
    coarse = _class_names(files, "meta", b"coarse_label_names", 20)
    keys = {"label": (b"fine_labels", 100), "coarse_label": (b"coarse_labels", 20)}
    return convert.Content(
        "3.0.2",
        _features(tfds, label=fine, coarse_label=coarse),
        {split: _split(files, split, [split], keys) for split in ("train", "test")},
    )


def _features(tfds: Any, **names: Sequence[str]) -> Mapping[str, Any]:
    labels = {k: tfds.features.ClassLabel(names=v) for k, v in names.items()}
    image = tfds.features.Image(shape=(32, 32, 3))
    return {"id": tfds.features.Text(), "image": image} | labels


def _split(
    files: Files,
    split: str,
    batches: Sequence[str],
    keys: Mapping[str, tuple[bytes, int]],
) -> convert.Split:
    """Joins batches; ``keys`` has for each label its key in them and its classes."""
    images, columns = [], {name: [] for name in keys}
    for batch in batches:
        content = _load(files, batch)
        data = content.get(b"data")
        if not (
            isinstance(data, np.ndarray)
            and data.dtype == np.uint8
            and data.ndim == 2
            and data.shape[1] == _BYTES
        ):
            raise files.damaged(batch, f"its data is not uint8 [N, {_BYTES}]")
        for name, (key, num_classes) in keys.items():
            labels = content.get(key)
            if (
                not isinstance(labels, list)
                or len(labels) != len(data)
                or not all(isinstance(label, int) for label in labels)
            ):
                raise files.damaged(
                    batch, f"its {key.decode()} are not {len(data)} integers"
                )
            where = f"{files.path}: {batch}"
            convert.check_labels(np.array(labels), 0, num_classes - 1, where)
            columns[name] += labels
        images.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    stacked = np.concatenate(images)
    ids = [f"{split}_{i:05d}" for i in range(len(stacked))]
    return convert.pixels(stacked, id=ids, **columns)


def _class_names(files: Files, name: str, key: bytes, count: int) -> list[str]:
    names = _load(files, name).get(key)
    if (
        not isinstance(names, list)
        or len(set(map(str, names))) != count
        or not all(isinstance(item, bytes | str) for item in names)
    ):
        raise files.damaged(name, f"its {key.decode()} are not {count} names")
    return [n if isinstance(n, str) else n.decode("utf-8", "replace") for n in names]


def _load(files: Files, name: str) -> dict[bytes, Any]:
    data = files.read(name)
    try:
        content = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise files.damaged(name, error or type(error).__name__) from error
    if not isinstance(content, dict):
        raise files.damaged(name, "it is not a batch of CIFAR")
    # Written by Python 2 the keys are bytes, by Python 3 strings.
    return {k.encode() if isinstance(k, str) else k: v for k, v in content.items()}


def _new_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.uint8)  # shape and bytes are set from the state that follows


def _new_dtype(code: bytes | str, *_: Any) -> np.dtype:
    if code not in (b"u1", "u1"):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of bytes")
    return np.dtype("u1")


def _latin1(text: str, encoding: bytes | str) -> bytes:
    """Bytes as Python 3 pickles them in the protocol of Python 2."""
    if encoding not in (b"latin1", "latin1"):
        raise pickle.UnpicklingError(f"it holds text encoded as {encoding!r}")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Admits arrays of bytes, beside what a pickle holds without looking anything up.

    Not even NumPy's own functions are called, only these of ours in their stead.
    """

    _ADMITTED = {
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): "an argument of _reconstruct, never called",
        ("numpy", "dtype"): _new_dtype,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which was refused: CIFAR's files hold "
                "nothing but arrays of bytes"
            )
        return self._ADMITTED[module, name]
