"""One optimisation step, and a scanned chunk of them, as pure functions."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from eenet_jax.backbones import blocks
from eenet_jax.backbones.staged import Backbone
from eenet_jax.training.best_heads import BestHeads
from eenet_jax.training.map_losses import pixel_hits

LossFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
# (variables, x, rngs) -> (logits, new variables other than params), in training mode.
Forward = Callable[[Any, Any, Any], tuple[jax.Array, Any]]


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes; a checkpoint holds it whole.

    Attributes:
      step: int32, optimisation steps done.
      variables: The backbone's variables.
      opt_state: The optimiser's state, for the parameters that are trained.
      average: Exponential moving average of the variables, or None where it is off.
      best: Each head at its best, or None where the last counts.
    """

    step: jax.Array
    variables: Any
    opt_state: Any
    average: Any
    best: BestHeads | None = None

    def stored(self) -> dict[str, Any]:
        """Returns what a checkpoint holds, by name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.best is None:  # which earlier versions did not have
            del fields["best"]
        return fields

    @property
    def latest_variables(self) -> Any:
        """The variables as they are now: averaged where they are."""
        return self.variables if self.average is None else self.average

    @property
    def eval_variables(self) -> Any:
        """The variables that evaluation and inference use."""
        latest = self.latest_variables
        return latest if self.best is None else self.best.put(latest)


def whole_network(backbone: Backbone) -> Forward:
    """Returns the forward pass that trains all of a network."""

    def forward(variables: Any, x: Any, rngs: Any) -> tuple[jax.Array, Any]:
        return backbone.apply(variables, x, train=True, rngs=rngs)

    return forward


def in_blocks(backbone: Backbone, text: str) -> Forward:
    """Returns the same with maps cut into blocks after the first stage.

    Logits are put together again, so that losses are those of whole images.

    Args:
      backbone: A network of maps.
      text: The blocks, as ``blocks.read_blocks`` takes them.
    """
    cut = blocks.in_blocks(backbone, *blocks.read_blocks(text))

    def forward(variables: Any, x: Any, rngs: Any) -> tuple[jax.Array, Any]:
        logits, state = cut.apply(variables, x, train=True, rngs=rngs)
        size = backbone.answer_shape(variables, x)[:2]
        return jax.vmap(lambda of: blocks.join(of, cut.grid, size))(logits), state

    return forward


def init_state(
    backbone: Backbone,
    tx: optax.GradientTransformation,
    x: Any,
    *,
    key: jax.Array,
    with_average: bool,
    trained: Collection[str] | None = None,
    keep_best: bool = False,
) -> TrainState:
    """Returns a fresh state for inputs shaped like ``x``; see ``train_step``.

    With ``keep_best``, each of the trained heads is kept as it was at its best.
    """
    variables = backbone.init(key, x)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=tx.init(_chosen(variables["params"], trained)),
        average=jax.tree.map(jnp.copy, variables) if with_average else None,
        best=BestHeads.start(variables, trained or ()) if keep_best else None,
    )


def train_step(
    state: TrainState,
    x: Any,
    labels: jax.Array,
    *,
    key: jax.Array,
    forward: Forward,
    tx: optax.GradientTransformation,
    loss_fn: LossFn,
    ema_decay: float = 0.0,
    trained: Collection[str] | None = None,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step.

    Args:
      state: State before the step.
      x: Normalised, augmented inputs.
      labels: int32 ``[B]``, or label maps uint8 ``[B, H, W]``.
      key: For dropout.
      forward: ``(variables, x, rngs) -> (logits [K, B, C], new state)``.
      tx: The optimiser.
      loss_fn: ``(logits [K, B, C], labels [B], step) -> [B]``.
      ema_decay: Decay of ``state.average``, where there is one.
      trained: Parts of the network that are trained, as "heads_0"; None for all.
      accumulate: Parts that the batch is cut into. Forward and backward pass take one
        part after the other, and the step follows the mean of their gradients.

    Returns:
      The state after the step, and ``{"loss": [], "correct": [K]}``: the mean loss and
      the share of the batch, or of its pixels, that each exit got right, before the
      step.
    """

    whole = state.variables["params"]

    def objective(params, others, x, labels, key):
        variables = {**others, "params": {**whole, **params}}
        logits, new = forward(variables, x, {"dropout": key})
        loss = jnp.mean(loss_fn(logits, labels, state.step))
        if labels.ndim == 1:
            right = logits.argmax(-1) == labels[None, :]
            correct = jnp.mean(right, axis=1, dtype=jnp.float32)
        else:
            correct = pixel_hits(logits, labels)
        return loss, ({"loss": loss, "correct": correct}, new)

    params = _chosen(whole, trained)
    others = {n: v for n, v in state.variables.items() if n != "params"}
    grad = functools.partial(jax.grad(objective, has_aux=True), params)
    if accumulate == 1:
        grads, (metrics, new) = grad(others, x, labels, key)
    else:
        grads, metrics, new = _mean_of_parts(grad, others, x, labels, key, accumulate)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    params = {**whole, **optax.apply_updates(params, updates)}
    variables = {"params": params, **new}
    average = state.average
    if average is not None:
        average = optax.incremental_update(variables, average, 1 - ema_decay)
    new_state = state.replace(
        step=state.step + 1, variables=variables, opt_state=opt_state, average=average
    )
    return new_state, metrics


def _mean_of_parts(
    grad: Callable[..., Any],
    others: Any,
    x: Any,
    labels: jax.Array,
    key: jax.Array,
    count: int,
) -> tuple[Any, Any, Any]:
    """Returns mean gradient and metrics of ``count`` parts of a batch, and new state.

    A part has every ``count``-th row, so that each device has rows of all of them.
    """

    def parts(rows: jax.Array) -> jax.Array:
        return rows.reshape(-1, count, *rows.shape[1:]).swapaxes(0, 1)

    def add(carry, part):
        others, total = carry
        grads, (metrics, new) = grad(others, *part)
        return (new, jax.tree.map(jnp.add, total, (grads, metrics))), None

    xs = (jax.tree.map(parts, x), parts(labels), jax.random.split(key, count))
    one = jax.eval_shape(grad, others, *jax.tree.map(lambda a: a[0], xs))
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (one[0], one[1][0]))
    (new, total), _ = jax.lax.scan(add, (others, start), xs)
    grads, metrics = jax.tree.map(lambda a: a / count, total)
    return grads, metrics, new


def _chosen(params: Any, trained: Collection[str] | None) -> dict[str, Any]:
    return {n: p for n, p in params.items() if trained is None or n in trained}


def run_chunk(
    state: TrainState,
    inputs: Any,
    labels: jax.Array,
    rows: jax.Array | None,
    *,
    key: jax.Array,
    prepare: Callable[..., tuple[Any, jax.Array]],
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes S steps in one compiled program.

    Step s draws its randomness from ``fold_in(key, state.step)``, so a run that is
    resumed at any step sees what an uninterrupted one sees. A chunk of one step has no
    loop around it: on CPUs XLA runs convolutions inside a loop ten times slower.

    Args:
      state: State before the chunk.
      inputs: Samples, a pytree of arrays ``[N, ...]``, such as uint8 images.
      labels: int32 ``[N]``, or label maps uint8 ``[N, H, W]``.
      rows: Rows of each step's batch, int32 ``[S, B]``; None for one step on all.
      key: The run's key.
      prepare: ``(inputs [B, ...], labels, key=) -> (x, labels)``: augmentation and
        normalisation.
      step_fn: ``train_step`` with everything but state, x, labels and key bound.

    Returns:
      The state after the chunk, and each step's metrics stacked, ``[S, ...]``.
    """

    def one(state, inputs, labels):
        key_augment, key_step = jax.random.split(jax.random.fold_in(key, state.step))
        x, labels = prepare(inputs, labels, key=key_augment)
        return step_fn(state, x, labels, key=key_step)

    def body(state, rows):
        return one(state, jax.tree.map(lambda a: a[rows], inputs), labels[rows])

    if rows is not None and rows.shape[0] > 1:
        return jax.lax.scan(body, state, rows)
    if rows is None:
        state, metrics = one(state, inputs, labels)
    else:
        state, metrics = body(state, rows[0])
    return state, jax.tree.map(lambda value: value[None], metrics)
