"""Runs an exported bundle: JAX and NumPy are all that it needs.

    bundle = load_bundle("bundle")
    probs, label, exit_index, score = bundle.predict(images)

Nothing of the network's code is imported: the programs are in the bundle.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from eenet_jax.errors import UserError
from eenet_jax.runtime import bundle_files, bundle_inputs
from eenet_jax.runtime.prediction import Prediction


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """An exported network with its policy.

    Attributes:
      path: The bundle's directory.
      manifest: What ``manifest.json`` says.
      network: The network's weights, in the order of the manifest, on the device.
      policy: The policy's, likewise.
    """

    path: pathlib.Path
    manifest: dict[str, Any]
    network: list[jax.Array]
    policy: list[jax.Array]

    @property
    def batch_sizes(self) -> list[int]:
        """Batch sizes that programs were exported for, increasing."""
        return self.manifest["batch_sizes"]

    @property
    def answer_shape(self) -> tuple[int, ...]:
        """Shape of a sample's probabilities: ``(C,)``, or ``(h, w, C)``."""
        return tuple(self.manifest.get("answer_shape", [self.manifest["num_classes"]]))

    def predict(self, x: Any, latest_exit: Any = None) -> Prediction:
        """Answers any number of samples, each at the exit that the policy chooses.

        They are cut into batches of the largest size exported; the rest goes into the
        smallest that holds it, with padding that leaves at the first exit.

        Args:
          x: Images, uint8 ``[N, H, W, C]`` as in the data set, or float32
            ``[N, H, W, 3]``, normalised already; or texts, ``{"ids": int32 [N, T],
            "mask": [N, T]}``.
          latest_exit: A hard limit: the last exit (0-based) that each sample may wait
            for, int ``[N]`` or one for all; None for the network's last.

        Raises:
          UserError: If inputs or limits do not fit.
        """
        spec, num_exits = self.manifest["input"], self.manifest["num_exits"]
        if spec["kind"] == "text":
            ids, mask, bucket = bundle_inputs.check_texts(spec, x)
            num_samples = len(ids)
        else:
            x = bundle_inputs.check_images(spec, x)
            num_samples = len(x)
        limits = bundle_inputs.check_limits(latest_exit, num_samples, num_exits)
        shape = num_samples, *self.answer_shape
        answers = Prediction(
            np.zeros(shape, np.float32),
            np.zeros(shape[:-1], np.int32),
            np.zeros(num_samples, np.int32),
            np.zeros(num_samples, np.float32),
        )
        if spec["kind"] == "text":
            for i, length in enumerate(spec["boundaries"]):
                rows = np.flatnonzero(bucket == i)
                for part, size in self._batches(rows):
                    inputs = [ids[part, :length], mask[part, :length]]
                    self._answer(answers, part, size, length, inputs, limits)
            return answers
        for part, size in self._batches(np.arange(num_samples)):
            inputs = [bundle_inputs.normalise(spec, x[part])]
            self._answer(answers, part, size, None, inputs, limits)
        return answers

    def stage(self, k: int, length: int | None = None) -> Callable[..., Any]:
        """Returns a stage with its exit, for schedulers that run stages themselves.

        Args:
          k: Stage and exit, 0-based.
          length: Of texts: the length bucket, in tokens.

        Returns:
          A function of a list of arrays ``[B, ...]`` for any B: what the stage before
          returned, for the first the normalised images, or ids and mask. It returns
          the list for the next stage, and the exit's logits, float32 ``[B, C]``.

        Raises:
          UserError: If there is no such piece in the bundle, with the reason.
        """
        piece = self._entry("stages", stage=k, length=length)
        if piece["file"] is None:
            raise UserError(
                f"{self.path} has no piece of stage {k}: it could not be exported for "
                f"all batch sizes ({piece['reason']})"
            )
        return functools.partial(self._load(piece["file"]), self.network)

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        for start, stop, size in bundle_inputs.parts(len(rows), self.batch_sizes):
            yield rows[start:stop], size

    def _answer(
        self,
        answers: Prediction,
        rows: np.ndarray,
        size: int,
        length: int | None,
        inputs: Sequence[np.ndarray],
        limits: np.ndarray,
    ) -> None:
        """Runs a batch and fills ``rows`` of the answers in."""
        missing = size - len(rows)
        inputs = [  # padding repeats the last sample, which is as good as any
            np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
            for array in inputs
        ]
        limits = np.pad(limits[rows], (0, missing))
        entry = self._entry("programs", batch_size=size, length=length)
        weights = [*self.network, *self.policy]
        found = self._load(entry["file"])(weights, inputs, limits)
        for of_all, ours in zip(answers, found, strict=True):
            of_all[rows] = np.asarray(ours)[: len(rows)]

    def _entry(self, group: str, **wanted: Any) -> dict[str, Any]:
        for entry in self.manifest[group]:
            if all(entry[name] == value for name, value in wanted.items()):
                return entry
        have = [
            {name: entry[name] for name in wanted} for entry in self.manifest[group]
        ]
        raise UserError(f"{self.path} has no {group} for {wanted}; it has {have}")

    @functools.cached_property
    def _loaded(self) -> dict[str, Callable[..., Any]]:
        return {}

    def _load(self, name: str) -> Callable[..., Any]:
        """Returns a program, compiled at its first call."""
        if name not in self._loaded:
            self._loaded[name] = jax.jit(_deserialized(self, self.path / name).call)
        return self._loaded[name]


def load_bundle(path: str | pathlib.Path) -> Bundle:
    """Reads what ``runtime.export`` wrote, for the device at hand.

    Programs are read and compiled when they are first needed.

    Raises:
      UserError: If a file is missing or altered, naming it; if the bundle was exported
        for other devices; or if it needs another version.
    """
    path = pathlib.Path(path)
    manifest = bundle_files.read_manifest(path)
    platform = export.default_export_platform()
    if platform not in manifest["platforms"]:
        raise UserError(
            f"{path} was exported for {', '.join(manifest['platforms'])}, not for "
            f"{platform}; set JAX_PLATFORMS to one of them, or export it with "
            f"--platforms={','.join([*manifest['platforms'], platform])}"
        )
    with np.load(path / bundle_files.WEIGHTS, allow_pickle=False) as stored:
        network, policy = (
            [jax.device_put(stored[name]) for name in manifest["weights"][of]]
            for of in ("network", "policy")
        )
    return Bundle(path, manifest, network, policy)


def _deserialized(bundle: Bundle, path: pathlib.Path) -> export.Exported:
    try:
        return export.deserialize(bytearray(path.read_bytes()))
    except ImportError:
        raise UserError(
            "bundles need the flatbuffers package; install with: pip install "
            "flatbuffers"
        ) from None
    except Exception as error:  # of a format that this JAX no longer, or not yet, reads
        raise UserError(
            f"{path} was written by jax {bundle.manifest['jax']} and cannot be read by "
            f"jax {jax.__version__} ({error}); export it anew with this version"
        ) from None
