"""Learning-rate schedules and optimisers, built from a config's fields with optax."""

from typing import Any

import jax
import ml_collections
import optax

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "multistep", "poly")


def build_schedule(
    config: ml_collections.ConfigDict, *, steps_per_epoch: int, total_steps: int
) -> optax.Schedule:
    """Builds the learning rate as a function of the step.

    Args:
      config: A whole config; ``schedule`` and ``optimizer.learning_rate`` are read.
      steps_per_epoch: Steps an epoch; turns epochs into steps.
      total_steps: Length of the run, where "cosine" and "poly" reach 0.
    """
    peak = config.optimizer.learning_rate
    fields = config.schedule
    warmup = min(round(fields.warmup_epochs * steps_per_epoch), total_steps)
    rest = max(total_steps - warmup, 1)
    if fields.name == "cosine":
        main = optax.cosine_decay_schedule(peak, rest)
    elif fields.name == "poly":  # peak (1 - step / steps)^power
        main = optax.polynomial_schedule(peak, 0.0, fields.power, rest)
    elif fields.name == "multistep":
        # join_schedules counts from the end of the warm-up; milestones from the start.
        boundaries: dict[int, float] = {}
        for epoch in fields.milestones:
            step = max(round(epoch * steps_per_epoch) - warmup, 0)
            boundaries[step] = boundaries.get(step, 1.0) * fields.factor
        main = optax.piecewise_constant_schedule(peak, boundaries)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, main], [warmup])


def build_optimizer(
    config: ml_collections.ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds the optimiser: clipping, weight decay, then SGD, Adam or AdamW.

    Weight decay is L2 (added to the gradient) for "sgd" and "adam" and decoupled for
    "adamw". It leaves norms and biases alone unless ``optimizer.decay_all`` is set.
    """
    fields = config.optimizer
    mask = None if fields.decay_all else decay_mask
    parts = []
    if fields.clip_norm:
        parts.append(optax.clip_by_global_norm(fields.clip_norm))
    if fields.weight_decay and fields.name != "adamw":
        parts.append(optax.add_decayed_weights(fields.weight_decay, mask))
    if fields.name == "sgd":
        momentum = fields.momentum or None
        parts.append(optax.sgd(schedule, momentum, nesterov=fields.nesterov))
    elif fields.name == "adam":
        parts.append(optax.adam(schedule))
    else:
        decay = fields.weight_decay
        parts.append(optax.adamw(schedule, weight_decay=decay, mask=mask))
    return optax.chain(*parts)


def decay_mask(params: Any) -> Any:
    """Returns True for the leaves that weight decay acts on: kernels and embeddings."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
