"""TFDS image sets of any size, one record at a time, without TensorFlow."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from eenet_jax import files
from eenet_jax.data import tfds_reader
from eenet_jax.errors import UserError

_CHUNK = 256  # records read at a time for their labels
_KEPT_FROM = 100_000  # records from which on the labels found are kept


def find_tfds(name: str, data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Finds the newest prepared version of a data set with or without configs.

    Args:
      name: The data set's TFDS name, or ``NAME/CONFIG``. NAME alone is found where it
        has no configs or only one that is prepared.
      data_dir: As for ``tfds_reader.find``.

    Returns:
      The directory of that version.

    Raises:
      UserError: As ``tfds_reader.find``, or if several configs are prepared.
    """
    root = tfds_reader.resolve(data_dir)
    if (root / name).is_dir() and tfds_reader.newest(root / name) is None:
        configs = [
            entry.name
            for entry in sorted((root / name).iterdir())
            if tfds_reader.newest(entry) is not None
        ]
        if len(configs) > 1:
            raise UserError(
                f"data.name={name!r} is prepared in several configs in {root / name}; "
                f"choose data.name={f'{name}/{configs[0]}'!r} or another of "
                f"{', '.join(configs)}"
            )
        if configs:
            name = f"{name}/{configs[0]}"
    return tfds_reader.find(name, data_dir)


class TfdsRecords:
    """The records of one split, as ``stream.Records``; files are opened when needed.

    Args:
      directory: What ``find_tfds`` returned.
      split: The split's name.

    Attributes:
      encoded: Features that are left as they are stored.
      num_classes: Labels are in 0..num_classes-1.
      class_names: One per class, or None where the set has none of its own.

    Raises:
      UserError: If the split is missing or empty, or the set has no ``image`` and
        ``label``.
    """

    encoded: tuple[str, ...] = ("image",)

    def __init__(self, directory: pathlib.Path, split: str):
        self.directory, self.split = directory, split
        self._source: Any = None
        info = self._builder().info
        sizes = {key: part.num_examples for key, part in info.splits.items()}
        if not sizes.get(split):
            raise UserError(
                f"{directory} has no examples in {split}, only in "
                f"{', '.join(sorted(sizes)) or 'nothing'}; prepare it again elsewhere"
            )
        features = dict(info.features.items())
        self._size = sizes[split]
        self._read_features(features)

    def _read_features(self, features: Mapping[str, Any]) -> None:
        label = features.get("label")
        if "image" not in features or not hasattr(label, "num_classes"):
            raise UserError(
                f"{self.directory} has features {', '.join(sorted(features))}; only "
                "sets with image and label, a class, can be streamed"
            )
        self.num_classes = label.num_classes
        names = tuple(label.int2str(i) for i in range(self.num_classes))
        # Without names of its own TFDS counts: "0", "1", ...
        counted = names == tuple(map(str, range(self.num_classes)))
        self.class_names = None if counted else names

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> tuple[bytes, int]:
        """Returns the encoded image and its label.

        Raises:
          UserError: If the record cannot be read.
        """
        with self._refusing():
            return _pair(self._opened()[row])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}

    def name(self, row: int) -> str:
        """Returns the record's number and where it is."""
        return f"record {row} of split {self.split!r} in {self.directory}"

    def labels(self) -> np.ndarray:
        """Returns all labels, int32 ``[N]``.

        They are stored with the images, so all records are read, though not decoded.
        Those of a large set are kept under ``$XDG_CACHE_HOME`` (``~/.cache``) for the
        next time. A progress bar shows on a terminal.

        Raises:
          UserError: If a record cannot be read or a label is no class.
        """
        kept = self._kept_labels()
        if kept is not None and kept.is_file():
            with contextlib.suppress(UserError, KeyError):  # damaged: read anew
                labels = files.load_arrays(kept)["labels"]
                if labels.shape == (len(self),):
                    return labels
        labels = self._read_labels()
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise UserError(
                f"{self.directory}: labels of split {self.split!r} go from "
                f"{labels.min()} to {labels.max()}; they must be in "
                f"0..{self.num_classes - 1}"
            )
        if kept is not None:
            with contextlib.suppress(OSError):  # only slower next time
                files.save_arrays(kept, {"labels": labels})
        return labels

    def _read_labels(self) -> np.ndarray:
        labels = np.empty(len(self), np.int32)
        with tqdm(
            total=len(self),
            desc=f"reading labels of {self.split}",
            disable=None,
            delay=2,
            leave=False,
        ) as bar:
            for start in range(0, len(self), _CHUNK):
                rows = range(start, min(start + _CHUNK, len(self)))
                with self._refusing():
                    records = self._opened().__getitems__(rows)
                    labels[start : rows.stop] = [_pair(r)[1] for r in records]
                bar.update(len(rows))
        return labels

    def _kept_labels(self) -> pathlib.Path | None:
        """Where the labels are kept, or None where reading them takes no time."""
        if len(self) < _KEPT_FROM:
            return None
        directory = self.directory.resolve()
        changed = (directory / "dataset_info.json").stat().st_mtime_ns
        identity = f"{directory}|{self.split}|{len(self)}|{changed}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:16]
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return pathlib.Path(cache).expanduser() / "eenet_jax" / f"labels-{name}.npz"

    def _opened(self) -> Any:
        if self._source is None:
            import tensorflow_datasets as tfds

            builder = self._builder()
            _allow_files(builder.info.splits[self.split].num_shards)
            decoders = {name: tfds.decode.SkipDecoding() for name in self.encoded}
            self._source = builder.as_data_source(split=self.split, decoders=decoders)
        return self._source

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # slow to import, and for these sets only

        with self._refusing():
            return tfds.builder_from_directory(self.directory)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"cannot read {self.directory}: {error}; remove it and prepare it again"
            ) from error


def _pair(record: Mapping[str, Any]) -> tuple[bytes, int]:
    return record["image"], int(record["label"])


def _allow_files(count: int) -> None:
    """Lets this process keep all files of a set open: ImageNet has over a thousand."""
    import resource  # not on Windows, and neither is array_record

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
