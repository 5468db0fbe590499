"""Configs: every shipped one is usable, and every mistake is named beforehand."""

import functools
import importlib
import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from configs import default
from eenet_jax import config as config_lib
from eenet_jax import distributed
from eenet_jax.data import image_sets, inputs, map_sets, text
from eenet_jax.data.datasets import Dataset, ImageSplit, TextSplit
from eenet_jax.data.map_records import MapStream
from eenet_jax.data.stream import StreamSplit
from eenet_jax.errors import UserError
from eenet_jax.training.plan import build_plan

NAMES = sorted(
    path.stem for path in pathlib.Path(default.__file__).parent.glob("[a-z]*.py")
)
SHAPES = {"digits": (8, 8, 1), "fashion_mnist": (28, 28, 1)}


def fake_data(config: ml_collections.ConfigDict) -> Dataset:
    """A data set of the right kind and shapes, without its content."""
    name, size = config.data.name, config.train.batch_size
    labels = np.zeros(size, np.int32)
    if name in text.NAMES:
        ids = np.zeros((size, 24), np.int32)
        part = TextSplit(ids, np.full(size, 20, np.int32), labels)
        return Dataset(name, part, part, part, 2, boundaries=(24,))
    if name in map_sets.SETS:
        size, classes = config.data.resize or (1024, 2048), 11
        if name == "cityscapes":
            classes = 19
            part = MapStream([], np.arange(len(labels)), size, labels, classes)
        else:
            shape = (len(labels), *size)
            part = ImageSplit(
                np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
            )
        return Dataset(name, part, part, part, classes, (0.5,) * 3, (0.25,) * 3)
    facts = image_sets.TFDS.get(name)
    classes = facts.num_classes if facts else 10
    if facts and facts.shape is None:
        side = config.data.image_size
        part = StreamSplit([], labels, np.arange(size), side, 2 * side)
        return Dataset(name, part, part, part, classes, (0.5,) * 3, (0.25,) * 3)
    shape = facts.shape if facts else SHAPES[name]
    images = np.zeros((size, *shape), np.uint8)
    part = ImageSplit(images, labels)
    mean, std = (0.5,) * shape[-1], (0.25,) * shape[-1]
    return Dataset(name, part, part, part, classes, mean, std)


def abstract_call(config, data, plan, state) -> tuple[Any, np.ndarray, Any]:
    """What the feed of a run sends to a call of ``run_chunk``, as shapes."""
    rows = jax.ShapeDtypeStruct((1, config.train.batch_size), np.int32)
    if plan.cached:
        x = inputs.example(data, config.train.batch_size)
        seen = jax.eval_shape(plan.backbone.head_inputs, state.variables, x)
        return seen[: plan.heads], data.train.labels, rows
    if isinstance(data.train, MapStream):
        shape = (config.train.batch_size, *data.train.size)
        pixels, maps = ((*shape, 3), shape)
        return *(jax.ShapeDtypeStruct(s, np.uint8) for s in (pixels, maps)), None
    if isinstance(data.train, StreamSplit):
        x = inputs.example(data, config.train.batch_size)
        return jax.ShapeDtypeStruct(x.shape, np.uint8), data.train.labels, None
    groups = inputs.train_groups(data, config.train.batch_size)
    return *groups[0], rows


# These take long to trace.
LONG = {"cifar10_resnet56", "cifar100_densenet121"}
LONG |= {"imagenet_msdnet35", "predictive_resnet34_cifar10"}
LONG |= {"cityscapes_hrnet48"}
# Their networks and objectives are traced for others.
ALIKE = {"agnews_bert", "cifar10_resnet56_finetuned", "leenet_resnet56_cifar10"}
ALIKE |= {"leenet_resnet50_imagenette", "leenet_densenet121_cifar100"}
ALIKE |= {"cifar10_resnet56_pretrained", "cifar10_resnet56_residual"}
ALIKE |= {"camvid_hrnet18s", "camvid_hrnet_narrow", "imagenette_resnet50"}
ALIKE |= {f"predictive_vgg19_{name}" for name in ("cifar100", "svhn", "stl10")}
ALIKE |= {"predictive_vgg19_narrow"}
MARKED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LONG else [])
    for name in NAMES
]


@pytest.mark.parametrize("name", MARKED)
def test_every_config_takes_an_abstract_step(name: str, monkeypatch) -> None:
    config = importlib.import_module(f"configs.{name}").get_config()
    monkeypatch.setattr(config_lib.sources, "check", lambda *args, **options: None)
    if config.train.objective == "exits":
        config.init_from = "weights.npz"
    devices = 4 if config.train.batch_size == 12 else 8  # of the published recipe
    config_lib.validate(config, num_devices=devices)
    if name in ALIKE:
        return
    data = fake_data(config)
    plan = build_plan(config, data, distributed.data_mesh())
    state = jax.eval_shape(plan.init, jax.random.key(0))
    call = abstract_call(config, data, plan, state)
    new, metrics = jax.eval_shape(
        functools.partial(plan.run_chunk, key=jax.random.key(0)), state, *call
    )
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
        lambda a: (a.shape, a.dtype), state
    )
    assert metrics["correct"].shape == (1, plan.heads)


def test_default_has_every_field() -> None:
    fields = dict(config_lib.flatten(default.get_config()))
    assert fields.keys() == config_lib.FIELDS.keys()


def test_runs_of_earlier_versions_can_be_read(tmp_path) -> None:
    fields = default.get_config().to_dict()
    del fields["gates"], fields["loss"]["exit_weights"]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert config_lib.differences(default.get_config(), config_lib.read(tmp_path)) == []


def test_json_round_trip() -> None:
    config = default.get_config()
    config.model.exits = (1, 4)
    config.schedule.milestones = (2.5, 7)
    back = config_lib.from_json(config_lib.to_json(config))
    assert back.to_dict() == config.to_dict()
    assert config_lib.differences(config, back) == []


def test_differences_name_the_fields() -> None:
    one, two = default.get_config(), default.get_config()
    two.optimizer.learning_rate = 0.5
    two.model.options.depth = 26
    lines = config_lib.differences(one, two)
    assert len(lines) == 2
    assert "model.options" in lines[0] and "26" in lines[0]
    assert lines[1] == "optimizer.learning_rate: 0.1 here, 0.5 there"


BAD = [
    ("seed", -1, "seed=-1 must be at least 0"),
    ("seed", True, "seed=True must be of type int, not bool"),
    ("dtype", "float64", "dtype='float64' must be one of auto, float32, bfloat16"),
    ("model.name", "resnet57", "model.name='resnet57' is unknown.*mean 'resnet56'"),
    ("model.exits", (3, 1), r"model.exits=\(3, 1\) do not increase"),
    ("model.exits", (3, 40), "no exit can be at 40"),
    ("model.options", {"width": 0}, "width=0 must be at least 1"),
    ("model.options", {"widht": 1}, "widht is no option.*mean 'width'"),
    ("data.name", "cifar11", "data.name='cifar11'"),
    ("data.val_size", -1, "data.val_size=-1 must be at least 0"),
    ("train.batch_size", 100, "train.batch_size=100 is not divisible by the 8.*96"),
    ("train.epochs", 1.5, "train.epochs=1.5 must be of type int"),
    ("train.ema_decay", 1.0, r"train.ema_decay=1.0 must be in \[0, 1\)"),
    ("optimizer.name", "lion", "optimizer.name='lion' must be one of sgd"),
    ("optimizer.learning_rate", 0.0, "learning_rate=0.0 must be above 0"),
    ("optimizer.learning_rate", float("nan"), "learning_rate=nan must be a finite"),
    ("schedule.name", "multistep", r"schedule.milestones=\(\) must name an epoch"),
    ("schedule.milestones", (5, 3), "must be increasing numbers of epochs"),
    ("schedule.factor", 0.0, r"schedule.factor=0.0 must be in \(0, 1\]"),
    ("loss.exit_weights", (1.0, 0.0, 1.0), "must be numbers above 0, one an exit"),
    ("loss.exit_weights", (1.0, 2.0), "must have 3 numbers, one for each exit"),
    ("loss.distill_start", 1.5, r"distill_start=1.5 must be in \[0, 1\]"),
    ("loss.distill_temperature", 0.0, "distill_temperature=0.0 must be above 0"),
    ("loss.distill_form", "both", "must be one of per_sample, published"),
    ("gates.inputs", "mean", "gates.inputs='mean' must be one of , flat, average"),
    ("gates.alpha", 1.5, r"gates.alpha=1.5 must be in \[0, 1\]"),
    ("eval.batch_size", 4, "eval.batch_size=4 is not divisible by the 8 devices"),
    ("train.accumulate", 3, "train.accumulate=3 times the 8 devices; take 120"),
]


@pytest.mark.parametrize("path, value, message", BAD)
def test_bad_value_is_named(path: str, value, message: str) -> None:
    config = default.get_config()
    *parents, name = path.split(".")
    holder = config
    for parent in parents:
        holder = holder[parent]
    with holder.ignore_type():
        holder[name] = ml_collections.ConfigDict(value) if name == "options" else value
    with pytest.raises(UserError, match=message):
        config_lib.validate(config, num_devices=8)


def test_nesterov_needs_momentum() -> None:
    config = default.get_config()
    config.optimizer.nesterov = True
    config.optimizer.momentum = 0.0
    with pytest.raises(UserError, match="needs optimizer.momentum above 0"):
        config_lib.validate(config, num_devices=1)


def test_all_problems_at_once() -> None:
    config = default.get_config()
    config.seed = -1
    config.train.epochs = 0
    config.optimizer.learning_speed = 1.0
    del config.eval.batch_size
    with pytest.raises(UserError) as error:
        config_lib.validate(config, num_devices=1)
    text = str(error.value)
    assert "seed=-1" in text and "train.epochs=0" in text
    assert "optimizer.learning_speed is no field" in text
    assert "mean optimizer.learning_rate" in text
    assert "eval.batch_size is missing" in text


def test_missing_data_names_the_line_that_prepares_them(tmp_path) -> None:
    config = default.get_config()
    config.data.name, config.data.dir = "cifar10", str(tmp_path)
    line = f"python -m eenet_jax.data.prepare cifar10 --data_dir={tmp_path}"
    with pytest.raises(UserError, match=line):
        config_lib.validate(config, num_devices=1)


def test_read_without_a_run(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no run.*config.json is not there"):
        config_lib.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        config_lib.read(tmp_path)
