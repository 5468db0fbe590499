"""From a config and a data set to the pieces of a run: network, optimiser, steps."""

import dataclasses
import functools
import itertools
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
from eenet_jax.data import images
from eenet_jax.data.sources import Dataset
from eenet_jax.errors import UserError
from eenet_jax.training import losses, optim, step

# Initialisation runs once: on CPUs optimising it takes far longer than running it.
QUICK_COMPILE = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is made of.

    Attributes:
      backbone: The network, in the compute type of the devices at hand.
      tx: The optimiser.
      schedule: Learning rate of a step.
      init: ``key -> TrainState`` on the mesh.
      run_chunk: Jitted ``(state, images, labels, indices [S, B], key)``; donates state.
      steps_per_epoch: Full batches an epoch.
      total_steps: Length of the run.
      steps_per_call: Longest chunk that one call takes.
    """

    backbone: Backbone
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    init: Callable[[jax.Array], step.TrainState]
    run_chunk: Callable[..., Any]
    steps_per_epoch: int
    total_steps: int
    steps_per_call: int


def build_plan(
    config: ml_collections.ConfigDict, dataset: Dataset, mesh: jax.sharding.Mesh
) -> Plan:
    """Builds a run from its config.

    Raises:
      UserError: If the training part is smaller than a batch.
    """
    size, batch_size = len(dataset.train.labels), config.train.batch_size
    if batch_size > size:
        raise UserError(
            f"train.batch_size={batch_size} is larger than the training part of "
            f"{dataset.name!r}, {size} examples; take a smaller one"
        )
    steps_per_epoch = size // batch_size
    total = config.train.epochs * steps_per_epoch
    if config.train.max_steps:
        total = min(total, config.train.max_steps)
    backbone = build_backbone(
        config,
        num_classes=dataset.num_classes,
        dtype=distributed.compute_dtype(config.dtype),
    )
    schedule = optim.build_schedule(
        config, steps_per_epoch=steps_per_epoch, total_steps=total
    )
    tx = optim.build_optimizer(config, schedule)
    x = jnp.zeros((1, *dataset.train.images.shape[1:3], 3))
    init = functools.partial(
        _init, backbone, tx, x, with_average=config.train.ema_decay > 0
    )
    chunk = functools.partial(
        step.run_chunk,
        prepare=_prepare(config, dataset, mesh),
        step_fn=functools.partial(
            step.train_step,
            backbone=backbone,
            tx=tx,
            loss_fn=_loss(config, total),
            ema_decay=config.train.ema_decay,
        ),
    )
    on_cpu = jax.default_backend() == "cpu"
    return Plan(
        backbone,
        tx,
        schedule,
        jax.jit(
            init,
            out_shardings=distributed.replicated(mesh),
            compiler_options=QUICK_COMPILE if on_cpu else None,
        ),
        jax.jit(chunk, donate_argnums=0),
        steps_per_epoch,
        total,
        1 if on_cpu else config.train.log_steps,  # see step.run_chunk
    )


def _init(backbone, tx, x, key, *, with_average):
    return step.init_state(backbone, tx, x, key=key, with_average=with_average)


def _prepare(config, dataset, mesh) -> Callable[..., jax.Array]:
    """Returns the map from a uint8 batch to augmented, normalised inputs."""

    def prepare(batch: jax.Array, *, key: jax.Array) -> jax.Array:
        batch = jax.lax.with_sharding_constraint(
            batch, distributed.batch_sharding(mesh)
        )
        batch = images.augment(
            batch,
            key=key,
            crop_padding=config.data.crop_padding,
            flip=config.data.flip,
            cutout=config.data.cutout,
            mean=dataset.mean,
        )
        return images.normalise(batch, dataset.mean, dataset.std)

    return prepare


def _loss(config, total_steps: int) -> step.LossFn:
    """Returns the joint objective, with distillation in the last part of the run."""
    fields = config.loss
    start = fields.distill_start * total_steps

    def loss_fn(logits, labels, step_index):
        return losses.joint_loss(
            logits,
            labels,
            label_smoothing=fields.label_smoothing,
            distill_weight=jnp.where(step_index >= start, fields.distill_weight, 0.0),
            distill_temperature=fields.distill_temperature,
            distill_form=fields.distill_form,
        )

    return loss_fn


def epoch_pieces(steps: int, longest: int) -> list[tuple[int, int]]:
    """Cuts an epoch's steps into near-equal pieces (start, end), two lengths at most.

    Few lengths, because every length of a chunk is a program to compile.
    """
    count = -(-steps // longest)
    ends = np.linspace(0, steps, count + 1).astype(int).tolist()
    return list(itertools.pairwise(ends))
