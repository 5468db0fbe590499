"""Reading, checking and writing experiment configs.

A config is a ``ml_collections.ConfigDict`` with the fields of ``config_fields``;
``configs/default.py`` documents them and gives defaults. ``validate`` reports all that
is wrong with one before anything is compiled.
"""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from eenet_jax import backbones
from eenet_jax.backbones.blocks import in_blocks, read_blocks
from eenet_jax.config_fields import FIELDS, NEW, check_field
from eenet_jax.data import sources
from eenet_jax.data.datasets import Dataset
from eenet_jax.errors import UserError


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
        problem = check_field(path, values[path])
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


def _check_whole(config: ml_collections.ConfigDict, num_devices: int) -> Iterator[str]:
    """Yields what only shows when fields are taken together."""
    for name, parts in (("train", config.train.accumulate), ("eval", 1)):
        size, unit = config[name].batch_size, num_devices * parts
        if size % unit:
            by = f"the {num_devices} devices"
            if parts > 1:
                by = f"train.accumulate={parts} times {by}"
            yield (
                f"{name}.batch_size={size} is not divisible by {by}; take "
                f"{max(size // unit, 1) * unit}"
            )
    if config.schedule.name == "multistep" and not config.schedule.milestones:
        yield "schedule.milestones=() must name an epoch for schedule.name='multistep'"
    if config.optimizer.nesterov and not config.optimizer.momentum:
        yield "optimizer.nesterov=True needs optimizer.momentum above 0"
    if config.train.objective == "exits" and not config.init_from:
        yield (
            "train.objective='exits' trains heads on frozen stages, and needs "
            "init_from, the file of their weights"
        )
    if config.train.keep_last_head and config.train.objective != "exits":
        yield "train.keep_last_head=True is for train.objective='exits' only"
    if config.train.patience and config.train.objective != "exits":
        yield (
            f"train.patience={config.train.patience} is for train.objective='exits' "
            "only: exits that share stages cannot stop one by one"
        )
    if len(config.data.mean) != len(config.data.std):
        yield (
            f"data.mean={config.data.mean} and data.std={config.data.std} must have "
            "as many numbers; () for the data set's own"
        )
    try:
        network = build_backbone(config, num_classes=2)
        num_exits = network.num_exits
        if config.train.blocks:
            in_blocks(network, *read_blocks(config.train.blocks))
            if config.train.objective != "joint":
                yield (
                    f"train.blocks={config.train.blocks!r} is for "
                    "train.objective='joint' only; leave it out"
                )
        for name in ("gates.inputs", "eval.train_samples"):
            group, field = name.split(".")
            value = config[group][field]
            if value and network.output_kind == "map":
                yield (
                    f"{name}={value!r} is for networks that answer with a class, not "
                    f"model.name={config.model.name!r}; leave it out"
                )
        if config.gates.inputs and num_exits == 1:
            yield (
                f"gates.inputs={config.gates.inputs!r} needs early exits, and the "
                "network has none; give model.exits, or '' here"
            )
        weights = config.loss.exit_weights
        if weights and config.train.objective != "joint":
            yield f"loss.exit_weights={weights} is for train.objective='joint' only"
        if weights and len(weights) != num_exits:
            yield (
                f"loss.exit_weights={weights} must have {num_exits} numbers, one for "
                "each exit; () for the published ones"
            )
    except (UserError, TypeError) as error:
        yield str(error)
    try:
        sources.check(
            config.data.name, config.data.dir or None, tokenizer=config.data.tokenizer
        )
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


def load_data(config: ml_collections.ConfigDict) -> Dataset:
    """Loads the data set that ``config.data`` names."""
    fields = config.data
    dataset = sources.load(
        fields.name,
        data_dir=fields.dir or None,
        val_size=fields.val_size or None,
        image_size=fields.image_size,
        resize=fields.resize,
        tokenizer=fields.tokenizer,
        max_length=fields.max_length,
        num_buckets=fields.num_buckets,
        text_columns=fields.text_columns,
        label_column=fields.label_column,
        vocab_size=build_backbone(config, num_classes=2).vocab_size,
    )
    if not fields.mean:
        return dataset
    if len(fields.mean) != len(dataset.mean):
        raise UserError(
            f"data.mean={fields.mean} must have {len(dataset.mean)} numbers for "
            f"data.name={fields.name!r}, one a channel"
        )
    return dataclasses.replace(dataset, mean=tuple(fields.mean), std=tuple(fields.std))


def read(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the ``config.json`` of a run, with what an earlier version lacked.

    Raises:
      UserError: If it is missing or is no JSON object.
    """
    path = workdir / "config.json"
    try:
        config = from_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"--workdir={workdir} holds no run: {path} is not there; train with "
            "train.py --workdir first"
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); train anew elsewhere") from None
    for field, value in NEW.items():
        group, _, name = field.rpartition(".")
        if group and group not in config:
            config[group] = ml_collections.ConfigDict()
        fields = config[group] if group else config
        if name not in fields:
            fields[name] = value
    return config


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
