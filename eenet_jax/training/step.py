"""One optimisation step, and a scanned chunk of them, as pure functions."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eenet_jax.backbones.staged import Backbone

LossFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes; a checkpoint holds it whole.

    Attributes:
      step: int32, optimisation steps done.
      variables: The backbone's variables.
      opt_state: The optimiser's state.
      average: Exponential moving average of the variables, or None where it is off.
    """

    step: jax.Array
    variables: Any
    opt_state: Any
    average: Any

    @property
    def eval_variables(self) -> Any:
        """The variables that evaluation and inference use: averaged where they are."""
        return self.variables if self.average is None else self.average


def init_state(
    backbone: Backbone,
    tx: optax.GradientTransformation,
    x: Any,
    *,
    key: jax.Array,
    with_average: bool,
) -> TrainState:
    """Returns a fresh state for inputs shaped like ``x``."""
    variables = backbone.init(key, x)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=tx.init(variables["params"]),
        average=jax.tree.map(jnp.copy, variables) if with_average else None,
    )


def train_step(
    state: TrainState,
    x: Any,
    labels: jax.Array,
    *,
    key: jax.Array,
    backbone: Backbone,
    tx: optax.GradientTransformation,
    loss_fn: LossFn,
    ema_decay: float = 0.0,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step.

    Args:
      state: State before the step.
      x: Normalised, augmented inputs.
      labels: int32 ``[B]``.
      key: For dropout.
      backbone: The network.
      tx: The optimiser.
      loss_fn: ``(logits [K, B, C], labels [B], step) -> [B]``.
      ema_decay: Decay of ``state.average``, where there is one.

    Returns:
      The state after the step, and ``{"loss": [], "correct": [K]}``: the mean loss and
      the share of the batch that each exit got right, before the step.
    """

    def objective(params):
        variables = {**state.variables, "params": params}
        rngs = {"dropout": key}
        logits, new = backbone.apply(variables, x, train=True, rngs=rngs)
        return jnp.mean(loss_fn(logits, labels, state.step)), (logits, new)

    params = state.variables["params"]
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    (loss, (logits, new)), grads = value_and_grad(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), **new}
    average = state.average
    if average is not None:
        average = optax.incremental_update(variables, average, 1 - ema_decay)
    right = logits.argmax(-1) == labels[None, :]
    metrics = {"loss": loss, "correct": jnp.mean(right, axis=1, dtype=jnp.float32)}
    return TrainState(state.step + 1, variables, opt_state, average), metrics


def run_chunk(
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    *,
    key: jax.Array,
    prepare: Callable[..., jax.Array],
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes S steps in one compiled program.

    Step s draws its randomness from ``fold_in(key, state.step)``, so a run that is
    resumed at any step sees what an uninterrupted one sees. A chunk of one step has no
    loop around it: on CPUs XLA runs convolutions inside a loop ten times slower.

    Args:
      state: State before the chunk.
      images: The whole training set, uint8 ``[N, H, W, C]``.
      labels: int32 ``[N]``.
      indices: Rows of each step's batch, int32 ``[S, B]``.
      key: The run's key.
      prepare: ``(images [B, ...] uint8, key=) -> x``: augmentation and normalisation.
      step_fn: ``train_step`` with everything but state, x, labels and key bound.

    Returns:
      The state after the chunk, and each step's metrics stacked, ``[S, ...]``.
    """

    def body(state, rows):
        key_augment, key_step = jax.random.split(jax.random.fold_in(key, state.step))
        x = prepare(images[rows], key=key_augment)
        return step_fn(state, x, labels[rows], key=key_step)

    if indices.shape[0] > 1:
        return jax.lax.scan(body, state, indices)
    state, metrics = body(state, indices[0])
    return state, jax.tree.map(lambda value: value[None], metrics)
