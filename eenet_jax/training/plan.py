"""From a config and a data set to the pieces of a run: network, optimiser, steps."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from eenet_jax import distributed
from eenet_jax.backbones.staged import Backbone
from eenet_jax.config import build_backbone
from eenet_jax.data import inputs, map_sets
from eenet_jax.data.datasets import Dataset
from eenet_jax.data.feeds import Feed, MemoryFeed, StreamFeed
from eenet_jax.data.map_records import MapStream
from eenet_jax.data.stream import StreamSplit
from eenet_jax.errors import UserError
from eenet_jax.training import objectives, optim, step

# Initialisation runs once: on CPUs optimising it takes far longer than running it.
OF_IMAGES = ("rotation", "crop_padding", "cutout")  # augmentation, beside flips
OF_MAPS = ("crop", "scale")
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is made of.

    Attributes:
      backbone: The network, in the compute type of the devices at hand.
      tx: The optimiser.
      schedule: Learning rate of a step.
      init: Jitted ``key -> TrainState``, on the mesh.
      place: Jitted identity that puts a state where ``init`` has it; donates it.
      run_chunk: Jitted ``(state, inputs, labels, rows [S, B], key)``; donates state.
      feed: Batches of the training part; of what the heads read where ``cached``, and
        then still to be made by ``cached_feed``.
      cached: Whether the heads are trained on features that are computed once.
      heads: Heads that are trained.
      steps_per_epoch: Full batches an epoch.
      total_steps: Length of the run.
      steps_per_call: Longest chunk that one call takes.
    """

    backbone: Backbone
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    init: Callable[[jax.Array], step.TrainState]
    place: Callable[[step.TrainState], step.TrainState]
    run_chunk: Callable[..., Any]
    feed: Feed | None
    cached: bool
    heads: int
    steps_per_epoch: int
    total_steps: int
    steps_per_call: int


def build_plan(
    config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh
) -> Plan:
    """Builds a run from its config.

    Raises:
      UserError: If the training part is smaller than a batch, or network and data are
        of different kinds.
    """
    backbone = build_backbone(
        config,
        num_classes=dataset.num_classes,
        dtype=distributed.compute_dtype(config.dtype),
    )
    check_fit(config, backbone, dataset)
    objective = objectives.build(config, backbone)
    cached = objective.frozen and _features_fit(config, backbone, dataset, objective)
    feed = None if cached else build_feed(config, dataset, mesh)
    steps_per_epoch = (
        feed.steps_per_epoch
        if feed
        else dataset.train.num_samples // config.train.batch_size
    )
    total = config.train.epochs * steps_per_epoch
    if config.train.max_steps:
        total = min(total, config.train.max_steps)
    schedule = optim.build_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=total
    )
    tx = optim.build_optimizer(config, schedule)
    init = functools.partial(
        _init,
        backbone,
        tx,
        _zeros(inputs.example(dataset)),
        with_average=config.train.ema_decay > 0,
        trained=objective.trained,
        keep_best=config.train.patience > 0,
    )
    chunk = functools.partial(
        step.run_chunk,
        prepare=_no_preparation if cached else _prepare(config, dataset, mesh),
        step_fn=functools.partial(
            step.train_step,
            forward=objective.forward(cached),
            tx=tx,
            loss_fn=objective.loss(total),
            ema_decay=config.train.ema_decay,
            trained=objective.trained,
            accumulate=config.train.accumulate,
        ),
    )
    on_cpu = jax.default_backend() == "cpu"
    whole = placing = distributed.replicated(mesh)
    if config.train.fsdp:
        placing = distributed.spread(jax.eval_shape(init, jax.random.key(0)), mesh)
    return Plan(
        backbone,
        tx,
        schedule,
        jax.jit(
            init,
            out_shardings=placing,
            compiler_options=QUICK_COMPILE if on_cpu else None,
        ),
        jax.jit(_same, donate_argnums=0, out_shardings=placing),
        jax.jit(chunk, donate_argnums=0, out_shardings=(placing, whole)),
        feed,
        cached,
        objective.heads,
        steps_per_epoch,
        total,
        1 if on_cpu else config.train.log_steps,  # see step.run_chunk
    )


def build_feed(
    config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh
) -> Feed:
    """Builds the feed of a data set's training part."""
    options = {"seed": config.seed, "batch_size": config.train.batch_size, "mesh": mesh}
    if isinstance(dataset.train, StreamSplit | MapStream):
        return StreamFeed(
            dataset.train,
            flip=config.data.flip,
            num_workers=config.data.num_workers,
            **options,
        )
    return MemoryFeed(inputs.train_groups(dataset, config.train.batch_size), **options)


def check_fit(
    config: ml_collections.ConfigDict, backbone: Backbone, dataset: Dataset
) -> None:
    """Refuses a batch that the training part cannot fill, and text for image networks.

    Raises:
      UserError: Naming the fields.
    """
    size, batch_size = dataset.train.num_samples, config.train.batch_size
    if batch_size > size:
        raise UserError(
            f"train.batch_size={batch_size} is larger than the training part of "
            f"{dataset.name!r}, {size} examples; take a smaller one"
        )
    if backbone.input_kind != dataset.kind:
        raise UserError(
            f"model.name={backbone.name!r} reads {backbone.input_kind}, but "
            f"data.name={dataset.name!r} is {dataset.kind}; choose another of the two"
        )
    if backbone.output_kind != dataset.target:
        raise UserError(
            f"model.name={backbone.name!r} answers with a {backbone.output_kind}, but "
            f"data.name={dataset.name!r} has a {dataset.target} for each image; choose "
            "another of the two"
        )
    others = OF_IMAGES if dataset.target == "map" else OF_MAPS
    for name in others:
        if value := config.data[name]:
            raise UserError(
                f"data.{name}={value} is not for data.name={dataset.name!r}, which has "
                f"a {dataset.target} for each image; leave it out"
            )
    if config.data.resize and config.data.name not in map_sets.SETS:
        raise UserError(
            f"data.resize={config.data.resize} is for data.name of "
            f"{', '.join(map_sets.SETS)}; give the file the size that it should have"
        )
    weights = config.loss.class_weights
    if weights and (dataset.target, len(weights)) != ("map", dataset.num_classes):
        raise UserError(
            f"loss.class_weights={weights} must be (), or for label maps one number "
            f"for each of the {dataset.num_classes} classes"
        )


def epoch_pieces(steps: int, longest: int) -> list[tuple[int, int]]:
    """Cuts an epoch's steps into near-equal pieces (start, end), two lengths at most.

    Few lengths, because every length of a chunk is a program to compile.
    """
    count = -(-steps // longest)
    ends = np.linspace(0, steps, count + 1).astype(int).tolist()
    return list(itertools.pairwise(ends))


def _features_fit(
    config: ml_collections.ConfigDict,
    backbone: Backbone,
    dataset: Dataset,
    objective: objectives.Objective,
) -> bool:
    """Says whether what the trained heads read fits in ``train.cache_gib``."""
    if isinstance(dataset.train, MapStream):
        return False  # nor do its label maps
    x = inputs.example(dataset)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), x)
    seen = jax.eval_shape(backbone.head_inputs, variables, x)[: objective.heads]
    sizes = [math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(seen)]
    return sum(sizes) * dataset.train.num_samples <= config.train.cache_gib * 2**30


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _init(backbone, tx, x, key, **options):
    return step.init_state(backbone, tx, x, key=key, **options)


def _same(state: step.TrainState) -> step.TrainState:
    return state


def _no_preparation(features: Any, labels: jax.Array, *, key: jax.Array) -> Any:
    del key
    return features, labels


def _prepare(config, dataset, mesh) -> Callable[..., Any]:
    """Returns the map from a batch of inputs to augmented, normalised ones."""
    names = OF_MAPS if dataset.target == "map" else OF_IMAGES
    options = {name: config.data[name] for name in (*names, "flip")}
    prepare = inputs.prepare_train(dataset, options)

    def prepare_sharded(batch: Any, labels: jax.Array, *, key: jax.Array) -> Any:
        sharding = distributed.batch_sharding(mesh)
        batch, labels = jax.lax.with_sharding_constraint((batch, labels), sharding)
        return prepare(batch, labels, key=key)

    return prepare_sharded
