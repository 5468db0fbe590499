"""Reading, checking and writing experiment configs.

A config is a ``ml_collections.ConfigDict`` with the fields of ``FIELDS``;
``configs/default.py`` documents them and gives defaults. ``validate`` reports all that
is wrong with one before anything is compiled.
"""

import dataclasses
import difflib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from eenet_jax import backbones
from eenet_jax.data import sources
from eenet_jax.errors import UserError
from eenet_jax.training.losses import DISTILL_FORMS
from eenet_jax.training.optim import OPTIMIZERS, SCHEDULES

DTYPES = ("auto", "float32", "bfloat16")


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


FIELDS: Mapping[str, Field] = {
    "seed": _at_least(0, int),
    "dtype": _choice(*DTYPES),
    "model.name": Field(str),
    "model.exits": Field(tuple),
    "model.options": Field(Mapping),
    "data.name": Field(str),
    "data.dir": Field(str),
    "data.val_size": _at_least(1, int),
    "data.crop_padding": _at_least(0, int),
    "data.flip": Field(bool),
    "data.cutout": _at_least(0, int),
    "train.batch_size": _at_least(1, int),
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
    "schedule.factor": Field(float, lambda value: 0 < value <= 1, "in (0, 1]"),
    "loss.label_smoothing": _share(True),
    "loss.distill_weight": _at_least(0),
    "loss.distill_temperature": _above(0),
    "loss.distill_start": _share(False),
    "loss.distill_form": _choice(*DISTILL_FORMS),
    "eval.batch_size": _at_least(1, int),
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("a.b", value) for every field; ``model.options`` stays one value."""
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping | ml_collections.ConfigDict) and (
            path not in FIELDS
        ):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value


def validate(config: ml_collections.ConfigDict, *, num_devices: int) -> None:
    """Checks every field of a config, and that what it names can be built.

    Args:
      config: The config.
      num_devices: Devices that a batch is spread over.

    Raises:
      UserError: Listing all that is wrong, one line a field.
    """
    values = dict(flatten(config))
    problems = [*_unknown_and_missing(values)]
    for path in FIELDS.keys() & values.keys():
        problem = _check_field(path, values[path])
        if problem:
            problems.append(problem)
    if not problems:
        problems = [*_check_whole(config, num_devices)]
    if problems:
        raise UserError(
            "the config cannot be used:\n  " + "\n  ".join(sorted(problems))
        )


def _unknown_and_missing(values: Mapping[str, Any]) -> Iterator[str]:
    for path in values.keys() - FIELDS.keys():
        close = difflib.get_close_matches(path, FIELDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        yield f"{path} is no field of a config{hint}"
    for path in FIELDS.keys() - values.keys():
        yield f"{path} is missing; start from configs/default.py, which has it"


def _check_field(path: str, value: Any) -> str | None:
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


def _check_whole(config: ml_collections.ConfigDict, num_devices: int) -> Iterator[str]:
    """Yields what only shows when fields are taken together."""
    for name in ("train", "eval"):
        size = config[name].batch_size
        if size % num_devices:
            yield (
                f"{name}.batch_size={size} is not divisible by the {num_devices} "
                f"devices; take {max(size // num_devices, 1) * num_devices}"
            )
    if config.schedule.name == "multistep" and not config.schedule.milestones:
        yield "schedule.milestones=() must name an epoch for schedule.name='multistep'"
    if config.optimizer.nesterov and not config.optimizer.momentum:
        yield "optimizer.nesterov=True needs optimizer.momentum above 0"
    try:
        build_backbone(config, num_classes=2)
    except (UserError, TypeError) as error:
        yield str(error)
    try:
        sources.check(config.data.name, config.data.dir or None)
    except UserError as error:
        yield str(error)


def build_backbone(
    config: ml_collections.ConfigDict, *, num_classes: int, dtype: str = "float32"
) -> backbones.Backbone:
    """Builds the backbone that ``config.model`` names."""
    options = dict(config.model.options)
    return backbones.build(
        config.model.name,
        num_classes=num_classes,
        exits=config.model.exits,
        dtype=dtype,
        **options,
    )


def load_data(config: ml_collections.ConfigDict) -> sources.Dataset:
    """Loads the data set that ``config.data`` names."""
    return sources.load(
        config.data.name,
        data_dir=config.data.dir or None,
        val_size=config.data.val_size,
    )


def read(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the ``config.json`` of a run.

    Raises:
      UserError: If it is missing or is no JSON object.
    """
    path = workdir / "config.json"
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"--workdir={workdir} holds no run: {path} is not there; train with "
            "train.py --workdir first"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); train anew elsewhere") from None


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the config as indented JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """Reads what ``to_json`` wrote; lists become tuples again."""
    return ml_collections.ConfigDict(_tuples(json.loads(text)))


def differences(
    new: ml_collections.ConfigDict, old: ml_collections.ConfigDict
) -> list[str]:
    """Returns one line for every field in which two configs differ."""
    ours, theirs = (_tuples(c.to_dict()) for c in (new, old))
    a, b = dict(flatten(ours)), dict(flatten(theirs))
    return [
        f"{path}: {a.get(path)!r} here, {b.get(path)!r} there"
        for path in sorted(a.keys() | b.keys())
        if a.get(path) != b.get(path)
    ]


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(v) for v in value)
    return value
