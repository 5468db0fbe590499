"""Saved predictions of a multi-exit network: the input of every scheduler.

One ``.npz`` file, of any framework's making; the keys are in the README.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from eenet_jax import iou
from eenet_jax import prediction_checks as checks
from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays, save_arrays

LARGEST = 1e30  # of a logit: beyond it float32 arithmetic overflows
TINY = 1e-30  # probabilities below this count as this, so that logarithms are finite


@dataclasses.dataclass(frozen=True)
class Split:
    """What the network says of one part of the data.

    Attributes:
      logits: float32 ``[K, N, C]``, finite. Where every pixel has a class,
        logarithms of the mean probabilities of an image (``evidence.pooled``).
      labels: int32 ``[N]``, each in 0..C-1; None where every pixel has one.
      features: What gates read of each early exit, float32 ``[N, D_k]``, or None.
      confidence: Where every pixel has a class, the mean over an image of the largest
        probability, float32 ``[K, N]``, else None.
      confusion: There, each image's pixels by class and answer, int ``[K, N, C, C]``.
    """

    logits: np.ndarray
    labels: np.ndarray | None
    features: tuple[np.ndarray, ...] | None = None
    confidence: np.ndarray | None = None
    confusion: np.ndarray | None = None

    @property
    def num_samples(self) -> int:
        """N."""
        return self.logits.shape[1]

    @property
    def correct(self) -> np.ndarray:
        """Whether exit k is right about sample n, bool ``[K, N]``.

        Where every pixel has a class, how right: the IoU of the image, float64.
        """
        if self.confusion is not None:
            return iou.image_iou(self.confusion)
        return self.logits.argmax(-1) == self.labels[None]

    @property
    def exit_accuracy(self) -> np.ndarray:
        """Share of right answers, or mean IoU, of each exit, float64 ``[K]``."""
        if self.confusion is not None:
            return iou.mean_iou(self.confusion.sum(axis=1))
        return self.correct.mean(axis=1)

    def accuracy_at(self, exit_index: np.ndarray) -> float:
        """Returns the same of samples that leave at these exits, ``[N]``."""
        at = exit_index, np.arange(self.num_samples)
        if self.confusion is not None:
            return float(iou.mean_iou(self.confusion[at].sum(axis=0)))
        return float(self.correct[at].mean())

    def take(self, rows: np.ndarray) -> "Split":
        """Returns the part with only ``rows``, in that order."""
        features = self.features
        if features is not None:
            features = tuple(f[rows] for f in features)
        labels = None if self.labels is None else self.labels[rows]
        of_maps = (
            None if value is None else value[:, rows]
            for value in (self.confidence, self.confusion)
        )
        return Split(self.logits[:, rows], labels, features, *of_maps)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions on a validation part, for choosing, and a test part, for reporting.

    Attributes:
      val: Validation part.
      test: Test part.
      costs: float64 ``[K]``, per sample, up to and including exit k, with the heads of
        exits 0..k; not falling.
      cost_unit: Unit of ``costs``.
      head_costs: float64 ``[K]``, head k alone, or None.
      gate_costs: float64 ``[K]``, gate k alone, or None.
      activation_mean: float64 ``[K]``, mean absolute logit on training data, or None.
      checkpoint_step: Step of the checkpoint that made them, or None.
      samples_per_image: How many consecutive samples are blocks of one image; costs
        are of an image whose blocks all leave there.
      class_names: Of the C classes, or None.
      gate_inputs: What the features are of the network's maps, one of
        ``schedulers.feature_gates.INPUTS``.
    """

    val: Split
    test: Split
    costs: np.ndarray
    cost_unit: str = "units"
    head_costs: np.ndarray | None = None
    gate_costs: np.ndarray | None = None
    activation_mean: np.ndarray | None = None
    checkpoint_step: int | None = None
    gate_inputs: str = "flat"
    samples_per_image: int = 1
    class_names: tuple[str, ...] | None = None

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.costs)

    @property
    def prices(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """``costs``, ``head_costs`` and ``gate_costs``."""
        return self.costs, self.head_costs, self.gate_costs

    @property
    def split_costs(self) -> tuple[np.ndarray, np.ndarray]:
        """Costs of the network up to each exit without heads, and of heads, ``[K]``.

        Where the heads' costs are not known, the network has them and heads are free.
        """
        if self.head_costs is None:
            return self.costs, np.zeros_like(self.costs)
        return self.costs - np.cumsum(self.head_costs), self.head_costs

    @property
    def single_exit_costs(self) -> np.ndarray:
        """Costs of networks that have exit k only, ``[K]``.

        They run no other head; where the heads' costs are not known, all are counted.
        """
        return np.add(*self.split_costs)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.val.logits.shape[-1]

    @property
    def metric(self) -> str:
        """What accuracies are: "accuracy", or "miou" where every pixel has a class."""
        return "accuracy" if self.val.confusion is None else "miou"

    def with_costs(
        self,
        costs: np.ndarray,
        unit: str,
        head_costs: np.ndarray | None = None,
        gate_costs: np.ndarray | None = None,
    ) -> "Predictions":
        """Returns the same predictions with other costs in another unit.

        Args:
          costs: As ``costs``.
          unit: As ``cost_unit``.
          head_costs: As ``head_costs``.
          gate_costs: As ``gate_costs``.

        Raises:
          UserError: If the costs are not usable, as for a file.
        """
        arrays = {"costs": np.asarray(costs)}
        if head_costs is not None:
            arrays["head_costs"] = np.asarray(head_costs)
        costs, head_costs = checks.prices(arrays, self.num_exits)
        return dataclasses.replace(
            self,
            costs=costs,
            cost_unit=unit,
            head_costs=head_costs,
            gate_costs=gate_costs,
        )


def save_predictions(path: str | pathlib.Path, predictions: Predictions) -> None:
    """Writes a predictions file whole or not at all."""
    path = pathlib.Path(path)
    arrays = {"costs": predictions.costs, "cost_unit": predictions.cost_unit}
    if predictions.class_names is not None:
        arrays["class_names"] = np.array(predictions.class_names)
    if predictions.samples_per_image > 1:
        arrays["samples_per_image"] = predictions.samples_per_image
    if predictions.val.features is not None:
        arrays["gate_inputs"] = predictions.gate_inputs
    for part in ("val", "test"):
        split = getattr(predictions, part)
        if split.confusion is None:
            arrays[f"{part}_logits"] = split.logits
            arrays[f"{part}_labels"] = split.labels
        else:
            arrays[f"{part}_probs"] = np.exp(split.logits)
            arrays[f"{part}_confidence"] = split.confidence
            arrays[f"{part}_confusion"] = split.confusion
        for k, features in enumerate(split.features or ()):
            arrays[f"{part}_features_{k}"] = features
    for name in ("head_costs", "gate_costs", "activation_mean", "checkpoint_step"):
        value = getattr(predictions, name)
        if value is not None:
            arrays[name] = value
    save_arrays(path, arrays)


def load_predictions(path: str | pathlib.Path) -> Predictions:
    """Reads and checks a predictions file.

    Raises:
      UserError: If it cannot be read or its content is not usable, naming the key, the
        index and the value.
    """
    path = pathlib.Path(path)
    arrays = load_arrays(path)
    try:
        return _from_arrays(arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Predictions:
    val, test = _split(arrays, "val"), _split(arrays, "test")
    if (val.confusion is None) != (test.confusion is None):
        raise UserError("val_confusion and test_confusion must both be there, or none")
    if val.logits.shape[::2] != test.logits.shape[::2]:
        raise UserError(
            "val and test must agree on exits and classes, not "
            f"{list(val.logits.shape)} and {list(test.logits.shape)} [K, N, C]"
        )
    checks.same_features(val.features or (), test.features or ())
    gate_inputs = str(arrays.get("gate_inputs", "flat"))
    if gate_inputs not in checks.GATE_INPUTS:
        raise UserError(
            f"gate_inputs={gate_inputs!r} must be one of "
            f"{', '.join(checks.GATE_INPUTS)}"
        )
    num_exits = len(val.logits)
    costs, head_costs = checks.prices(arrays, num_exits)
    step = arrays.get("checkpoint_step")
    if step is not None and (step.shape or not np.issubdtype(step.dtype, np.integer)):
        raise UserError(f"checkpoint_step={step} must be one integer")
    return Predictions(
        val=val,
        test=test,
        costs=costs,
        cost_unit=str(arrays.get("cost_unit", "units")),
        head_costs=head_costs,
        gate_costs=checks.per_exit(arrays, "gate_costs", num_exits),
        activation_mean=checks.per_exit(arrays, "activation_mean", num_exits),
        checkpoint_step=None if step is None else int(step),
        gate_inputs=gate_inputs,
        class_names=checks.class_names(arrays, val.logits.shape[-1]),
        samples_per_image=checks.samples_per_image(
            arrays, val.num_samples, test.num_samples
        ),
    )


def _split(arrays: Mapping[str, np.ndarray], part: str) -> Split:
    given = [n for n in (f"{part}_logits", f"{part}_probs") if n in arrays]
    if not given:
        raise UserError(f"{part}_probs or {part}_logits is missing: float [K, N, C]")
    name = given[0]
    values = arrays[name]
    floating = np.issubdtype(values.dtype, np.floating)
    if not floating or values.ndim != 3 or 0 in values.shape:
        raise UserError(
            f"{name} must be float [K, N, C], not {values.dtype} {list(values.shape)}"
        )
    if values.shape[2] < 2:
        raise UserError(
            f"{name} has shape {list(values.shape)} [K, N, C]; at least 2 classes are "
            "needed"
        )
    wide = values.astype(np.float64)
    usable = np.abs(wide) <= LARGEST  # False for NaN and infinity too
    checks.refuse_first(name, values, ~usable, f"must be finite, at most {LARGEST:g}")
    logits = values.astype(np.float32)
    if name.endswith("_probs"):
        checks.check_rows(name, values)
        logits = np.log(np.maximum(logits, TINY))
    features = checks.features(arrays, part, *values.shape[:2])
    if f"{part}_confusion" in arrays:
        of_maps = checks.of_maps(arrays, part, *values.shape)
        return Split(logits, None, features, *of_maps)
    labels = checks.labels(arrays, f"{part}_labels", *values.shape[1:])
    return Split(logits, labels, features)
