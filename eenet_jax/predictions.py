"""Saved predictions of a multi-exit network: the input of every scheduler.

One ``.npz`` file, of any framework's making; the keys are in the README.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays, save_arrays

LARGEST = 1e30  # of a logit: beyond it float32 arithmetic overflows
TINY = 1e-30  # probabilities below this count as this, so that logarithms are finite
ROW_TOLERANCE = {np.dtype(np.float16): 2e-2}


@dataclasses.dataclass(frozen=True)
class Split:
    """What the network says of one part of the data.

    Attributes:
      logits: float32 ``[K, N, C]``, finite.
      labels: int32 ``[N]``, each in 0..C-1.
      features: For each exit, float32 ``[N, D_k]``, or None.
    """

    logits: np.ndarray
    labels: np.ndarray
    features: tuple[np.ndarray, ...] | None = None

    @property
    def num_samples(self) -> int:
        """N."""
        return self.logits.shape[1]

    @property
    def correct(self) -> np.ndarray:
        """Whether exit k is right about sample n, bool ``[K, N]``."""
        return self.logits.argmax(-1) == self.labels[None]

    def take(self, rows: np.ndarray) -> "Split":
        """Returns the part with only ``rows``, in that order."""
        features = self.features
        if features is not None:
            features = tuple(f[rows] for f in features)
        return Split(self.logits[:, rows], self.labels[rows], features)


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
    """

    val: Split
    test: Split
    costs: np.ndarray
    cost_unit: str = "units"
    head_costs: np.ndarray | None = None
    gate_costs: np.ndarray | None = None
    activation_mean: np.ndarray | None = None
    checkpoint_step: int | None = None

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.costs)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.val.logits.shape[-1]

    def with_costs(
        self,
        costs: np.ndarray,
        unit: str,
        head_costs: np.ndarray | None = None,
    ) -> "Predictions":
        """Returns the same predictions with other costs in another unit.

        Args:
          costs: As ``costs``.
          unit: As ``cost_unit``.
          head_costs: As ``head_costs``. Gate costs, in the old unit, are left out.

        Raises:
          UserError: If the costs are not usable, as for a file.
        """
        arrays = {"costs": np.asarray(costs)}
        if head_costs is not None:
            arrays["head_costs"] = np.asarray(head_costs)
        costs, head_costs = _prices(arrays, self.num_exits)
        return dataclasses.replace(
            self,
            costs=costs,
            cost_unit=unit,
            head_costs=head_costs,
            gate_costs=None,
        )


def save_predictions(path: str | pathlib.Path, predictions: Predictions) -> None:
    """Writes a predictions file whole or not at all."""
    path = pathlib.Path(path)
    arrays = {"costs": predictions.costs, "cost_unit": predictions.cost_unit}
    for part in ("val", "test"):
        split = getattr(predictions, part)
        arrays[f"{part}_logits"] = split.logits
        arrays[f"{part}_labels"] = split.labels
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
    if val.logits.shape[::2] != test.logits.shape[::2]:
        raise UserError(
            "val and test must agree on exits and classes, not "
            f"{list(val.logits.shape)} and {list(test.logits.shape)} [K, N, C]"
        )
    num_exits = len(val.logits)
    costs, head_costs = _prices(arrays, num_exits)
    step = arrays.get("checkpoint_step")
    if step is not None and (step.shape or not np.issubdtype(step.dtype, np.integer)):
        raise UserError(f"checkpoint_step={step} must be one integer")
    return Predictions(
        val=val,
        test=test,
        costs=costs,
        cost_unit=str(arrays.get("cost_unit", "units")),
        head_costs=head_costs,
        gate_costs=_per_exit(arrays, "gate_costs", num_exits),
        activation_mean=_per_exit(arrays, "activation_mean", num_exits),
        checkpoint_step=None if step is None else int(step),
    )


def _prices(
    arrays: Mapping[str, np.ndarray], num_exits: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads ``costs`` and ``head_costs`` and checks them together."""
    costs = _per_exit(arrays, "costs", num_exits)
    if costs is None:
        raise UserError(
            "the key 'costs' is missing: float [K], the cost per sample up to each exit"
        )
    falls = np.flatnonzero(np.diff(costs) < 0)
    if len(falls):
        k = int(falls[0]) + 1
        raise UserError(
            f"costs[{k}]={costs[k]} is below costs[{k - 1}]={costs[k - 1]}; costs are "
            "cumulative and must not fall"
        )
    if costs[-1] <= 0:
        raise UserError(f"costs[{num_exits - 1}]={costs[-1]} must be above 0")
    head_costs = _per_exit(arrays, "head_costs", num_exits)
    if head_costs is not None:
        stages = np.diff(costs - np.cumsum(head_costs), prepend=0.0)
        rule = "is more than exit k adds to costs, which include the heads so far"
        too_much = stages < -1e-9 * costs[-1]
        _refuse_first("head_costs", head_costs, too_much, rule)
    return costs, head_costs


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
    if values.shape[0] < 2 or values.shape[2] < 2:
        raise UserError(
            f"{name} has shape {list(values.shape)} [K, N, C]; at least 2 exits and 2 "
            "classes are needed"
        )
    wide = values.astype(np.float64)
    usable = np.abs(wide) <= LARGEST  # False for NaN and infinity too
    _refuse_first(name, values, ~usable, f"must be finite, at most {LARGEST:g}")
    logits = values.astype(np.float32)
    if name.endswith("_probs"):
        _check_rows(name, values)
        logits = np.log(np.maximum(logits, TINY))
    labels = _labels(arrays, f"{part}_labels", *values.shape[1:])
    return Split(logits, labels, _features(arrays, part, *values.shape[:2]))


def _check_rows(name: str, probs: np.ndarray) -> None:
    _refuse_first(name, probs, probs < 0, "must not be negative")
    sums = probs.sum(axis=-1, dtype=np.float64)
    wrong = np.abs(sums - 1) > ROW_TOLERANCE.get(probs.dtype, 1e-3)
    _refuse_first(f"sum of {name}", sums, wrong, "must be 1")


def _labels(
    arrays: Mapping[str, np.ndarray], name: str, num_samples: int, num_classes: int
) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{name} is missing: integers [N]")
    labels = arrays[name]
    integers = np.issubdtype(labels.dtype, np.integer)
    if not integers or labels.shape != (num_samples,):
        raise UserError(
            f"{name} must be integers [{num_samples}], not {labels.dtype} "
            f"{list(labels.shape)}"
        )
    outside = (labels < 0) | (labels >= num_classes)
    _refuse_first(name, labels, outside, f"must be in 0..{num_classes - 1}")
    return labels.astype(np.int32)


def _features(
    arrays: Mapping[str, np.ndarray], part: str, num_exits: int, num_samples: int
) -> tuple[np.ndarray, ...] | None:
    names = [f"{part}_features_{k}" for k in range(num_exits)]
    present = [name for name in names if name in arrays]
    if not present:
        return None
    for name in names[: len(present)]:
        if name not in arrays:
            raise UserError(f"{name} is missing, though {present[-1]} is there")
        values = arrays[name]
        floating = np.issubdtype(values.dtype, np.floating)
        if not floating or values.ndim != 2 or len(values) != num_samples:
            raise UserError(
                f"{name} must be float [{num_samples}, D], not {values.dtype} "
                f"{list(values.shape)}"
            )
        _refuse_first(name, values, ~np.isfinite(values), "must be finite")
    return tuple(arrays[name].astype(np.float32) for name in present)


def _per_exit(
    arrays: Mapping[str, np.ndarray], name: str, num_exits: int
) -> np.ndarray | None:
    if name not in arrays:
        return None
    values = arrays[name]
    number = values.dtype.kind in "iuf"
    if not number or values.shape != (num_exits,):
        raise UserError(
            f"{name} must be numbers [{num_exits}], not {values.dtype} "
            f"{list(values.shape)}"
        )
    values = values.astype(np.float64)
    wrong = ~np.isfinite(values) | (values < 0)
    _refuse_first(name, values, wrong, "must be finite and not negative")
    return values


def _refuse_first(name: str, values: np.ndarray, wrong: np.ndarray, rule: str) -> None:
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        place = ", ".join(map(str, index))
        raise UserError(f"{name}[{place}]={values[index]} {rule}")
