"""What a run trains, and on which loss.

"joint" trains the whole network on the weighted losses of all exits, the published
recipe. "exits" freezes the stages, as they were imported, in evaluation mode, and
trains the heads, which are independent of each other.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError
from eenet_jax.training import losses, step


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a run trains.

    Attributes:
      trained: Names of the trained parts, as "heads_0"; None for all.
      heads: How many heads are trained, the first ones.
      forward: From whether inputs are cached features to the forward pass.
      loss: From the run's length in steps to ``(logits, labels, step) -> [B]``.
    """

    trained: tuple[str, ...] | None
    heads: int
    forward: Callable[[bool], step.Forward]
    loss: Callable[[int], step.LossFn]

    @property
    def frozen(self) -> bool:
        """Whether the stages stay as they are."""
        return self.trained is not None


def build(config: ml_collections.ConfigDict, backbone: Backbone) -> Objective:
    """Builds the objective that ``config.train.objective`` names.

    Raises:
      UserError: If no head would be trained, or heads that share parameters would each
        be kept as they were at their best.
    """
    if config.train.objective == "joint":
        return _joint(config, backbone)
    heads = backbone.num_exits - int(config.train.keep_last_head)
    if heads < 1:
        raise UserError(
            "train.keep_last_head=True leaves nothing to train: the network has one "
            "exit; give model.exits"
        )
    if config.train.patience and backbone.shares_heads:
        raise UserError(
            f"train.patience={config.train.patience} keeps each head as it was at its "
            f"best, but those of model.name={backbone.name!r} share parameters; set "
            "train.patience=0 or model.options.share_heads=False"
        )
    return _exits(config, backbone, heads)


def _joint(config: ml_collections.ConfigDict, backbone: Backbone) -> Objective:
    """All parameters; distillation from the last exit in the last part of the run."""
    fields = config.loss

    def forward(cached: bool) -> step.Forward:
        del cached  # never: the features change
        if config.train.blocks:
            return step.in_blocks(backbone, config.train.blocks)
        return step.whole_network(backbone)

    def loss(total_steps: int) -> step.LossFn:
        start = fields.distill_start * total_steps

        def loss_fn(logits, labels, step_index):
            weight = jnp.where(step_index >= start, fields.distill_weight, 0.0)
            return losses.joint_loss(
                logits,
                labels,
                weights=tuple(fields.exit_weights),
                label_smoothing=fields.label_smoothing,
                class_weights=tuple(fields.class_weights),
                distill_weight=weight,
                distill_temperature=fields.distill_temperature,
                distill_form=fields.distill_form,
            )

        return loss_fn

    return Objective(None, backbone.num_exits, forward, loss)


def _exits(
    config: ml_collections.ConfigDict, backbone: Backbone, heads: int
) -> Objective:
    """The first ``heads`` heads on frozen stages; their losses are summed."""

    def forward(cached: bool) -> step.Forward:
        def run(variables: Any, x: Any, rngs: Any) -> tuple[jax.Array, Any]:
            seen = x if cached else backbone.head_inputs(variables, x)[:heads]
            seen = jax.lax.stop_gradient(seen)
            return backbone.train_heads(variables, seen, rngs)

        return run

    def loss(total_steps: int) -> step.LossFn:
        del total_steps

        def loss_fn(logits, labels, step_index):
            del step_index
            options = config.loss.label_smoothing, tuple(config.loss.class_weights)
            return jnp.sum(losses.exit_losses(logits, labels, *options), axis=0)

        return loss_fn

    names = tuple(f"heads_{k}" for k in range(heads))
    return Objective(names, heads, forward, loss)
