"""The fields of a config: what each may hold, and what is said when it does not."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

from eenet_jax.schedulers.feature_gates import INPUTS
from eenet_jax.training.losses import DISTILL_FORMS
from eenet_jax.training.optim import OPTIMIZERS, SCHEDULES

DTYPES = ("auto", "float32", "bfloat16")
OBJECTIVES = ("joint", "exits")


@dataclasses.dataclass(frozen=True)
class Field:
    """What a config field may hold: a type, a test, and the test in words."""

    kind: type
    test: Callable[[Any], bool] = lambda value: True
    rule: str = ""


def _at_least(low: float, kind: type = float) -> Field:
    return Field(kind, lambda value: value >= low, f"at least {low}")


def _above(low: float) -> Field:
    return Field(float, lambda value: value > low, f"above {low}")


def _choice(*choices: str) -> Field:
    return Field(str, lambda value: value in choices, f"one of {', '.join(choices)}")


def _share(upper_open: bool) -> Field:
    if upper_open:
        return Field(float, lambda value: 0 <= value < 1, "in [0, 1)")
    return Field(float, lambda value: 0 <= value <= 1, "in [0, 1]")


def _increasing(values: Any) -> bool:
    numbers = all(isinstance(v, int | float) and v >= 0 for v in values)
    return numbers and list(values) == sorted(set(values))


def _shares(values: Any) -> bool:
    return all(isinstance(v, int | float) and 0 <= v <= 1 for v in values)


def _positive(values: Any) -> bool:
    return all(isinstance(v, int | float) and v > 0 for v in values)


def _sides(values: Any) -> bool:
    whole = all(type(v) is int and v >= 32 for v in values)
    return len(values) in (0, 2) and whole


def _range(values: Any) -> bool:
    if len(values) not in (0, 2) or not _positive(values):
        return False
    return list(values) == sorted(values)


def _names(values: Any) -> bool:
    return bool(values) and all(isinstance(v, str) and v for v in values)


FIELDS: Mapping[str, Field] = {
    "seed": _at_least(0, int),
    "vmap_seeds": _at_least(0, int),
    "dtype": _choice(*DTYPES),
    "init_from": Field(str),
    "init_partial": Field(bool),
    "model.name": Field(str),
    "model.exits": Field(tuple),
    "model.options": Field(Mapping),
    "data.name": Field(str),
    "data.dir": Field(str),
    "data.val_size": _at_least(0, int),
    "data.mean": Field(tuple, _shares, "numbers in [0, 1], one a channel"),
    "data.std": Field(tuple, _positive, "numbers above 0, one a channel"),
    "data.image_size": _at_least(8, int),
    "data.num_workers": _at_least(0, int),
    "data.tokenizer": Field(str),
    "data.max_length": _at_least(3, int),
    "data.num_buckets": _at_least(1, int),
    "data.text_columns": Field(tuple, _names, "names of columns"),
    "data.label_column": Field(str),
    "data.resize": Field(tuple, _sides, "() or height and width, each at least 32"),
    "data.crop": Field(tuple, _sides, "() or height and width, each at least 32"),
    "data.scale": Field(tuple, _range, "() or two rising numbers above 0"),
    "data.crop_padding": _at_least(0, int),
    "data.flip": Field(bool),
    "data.cutout": _at_least(0, int),
    "data.rotation": Field(float, lambda value: 0 <= value <= 180, "in [0, 180]"),
    "train.objective": _choice(*OBJECTIVES),
    "train.keep_last_head": Field(bool),
    "train.patience": _at_least(0, int),
    "train.cache_gib": _at_least(0),
    "train.batch_size": _at_least(1, int),
    "train.accumulate": _at_least(1, int),
    "train.blocks": Field(str),
    "train.fsdp": Field(bool),
    "train.epochs": _at_least(1, int),
    "train.max_steps": _at_least(0, int),
    "train.eval_epochs": _at_least(1, int),
    "train.log_steps": _at_least(1, int),
    "train.ema_decay": _share(True),
    "optimizer.name": _choice(*OPTIMIZERS),
    "optimizer.learning_rate": _above(0),
    "optimizer.momentum": _share(True),
    "optimizer.nesterov": Field(bool),
    "optimizer.weight_decay": _at_least(0),
    "optimizer.decay_all": Field(bool),
    "optimizer.clip_norm": _at_least(0),
    "schedule.name": _choice(*SCHEDULES),
    "schedule.warmup_epochs": _at_least(0),
    "schedule.milestones": Field(tuple, _increasing, "increasing numbers of epochs"),
    "schedule.power": _above(0),
    "schedule.factor": Field(float, lambda value: 0 < value <= 1, "in (0, 1]"),
    "loss.exit_weights": Field(tuple, _positive, "numbers above 0, one an exit"),
    "loss.class_weights": Field(tuple, _positive, "numbers above 0, one a class"),
    "loss.label_smoothing": _share(True),
    "loss.distill_weight": _at_least(0),
    "loss.distill_temperature": _above(0),
    "loss.distill_start": _share(False),
    "loss.distill_form": _choice(*DISTILL_FORMS),
    "gates.inputs": _choice("", *INPUTS),
    "gates.alpha": _share(False),
    "eval.batch_size": _at_least(1, int),
    "eval.train_samples": _at_least(0, int),
}


# Fields that runs of earlier versions lack, with the values that they ran with.
NEW: Mapping[str, Any] = {
    "vmap_seeds": 0,
    "train.patience": 0,
    "train.accumulate": 1,
    "train.fsdp": False,
    "train.blocks": "",
    "loss.exit_weights": (),
    "loss.class_weights": (),
    "data.resize": (),
    "data.crop": (),
    "data.scale": (),
    "schedule.power": 0.9,
    "gates.inputs": "",
    "gates.alpha": 0.5,
    "eval.train_samples": 0,
}
# Fields that matter only once the network is trained.
AFTER_TRAINING = ("gates.inputs", "gates.alpha", "eval.train_samples")


def check_field(path: str, value: Any) -> str | None:
    """Returns what is wrong with a field's value, None if nothing is."""
    field = FIELDS[path]
    if path == "model.exits" and value is None:
        return None
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if field.kind is float and type(value) is int:
        value = float(value)
    if field.kind is tuple and isinstance(value, list):
        value = tuple(value)
    wrong_bool = isinstance(value, bool) and field.kind is not bool
    if not isinstance(value, field.kind) or wrong_bool:
        kind = field.kind.__name__
        return f"{path}={value!r} must be of type {kind}, not {type(value).__name__}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}={value} must be a finite number"
    if not field.test(value):
        return f"{path}={value!r} must be {field.rule}"
    return None
