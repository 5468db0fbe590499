"""Predictive Exit's published rule: the exit test and the forecast (BACKBONES 3.4).

A sample leaves at exit l if max|z| >= beta tau_l. One that stays forecasts from its own
logits which exit to test next: z is summed over neighbouring classes until it would
pass, and the heads of the exits between are not run. Who passes no test leaves at the
network's end. The sums go along the class axis: another order of the classes gives
another forecast.

Here E exits are tested, 0 .. E - 1; E stands for the end. Functions take M values of
beta at once, as bounds beta tau.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.errors import UserError

# From z to what tau is the mean of.
ACTIVATIONS = {
    "mean_abs": lambda z: np.abs(z).mean(axis=(1, 2)),
    "mean_max": lambda z: np.abs(z).max(axis=2).mean(axis=1),
    "published": lambda z: np.abs(z.mean(axis=(1, 2))),  # of signed z: close to zero
}


def activation_means(logits: np.ndarray, kind: str = "mean_abs") -> np.ndarray:
    """Measures the scale tau of each exit's logits.

    Args:
      logits: Of training samples in evaluation mode, ``[E, N, C]``.
      kind: "mean_abs" for the mean of |z|, "mean_max" for that of max|z|, "published"
        for the size of the mean of z.

    Returns:
      float64 ``[E]``.

    Raises:
      UserError: If there is no such kind.
    """
    if kind not in ACTIVATIONS:
        raise UserError(f"kind={kind!r} is unknown; choose from {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[kind](np.asarray(logits, np.float64))


def exit_bounds(activation_mean: np.ndarray, betas: Sequence[float]) -> np.ndarray:
    """Returns beta tau, float32 ``[M, E]``.

    Args:
      activation_mean: tau of each exit, ``[E]``, positive.
      betas: M positive numbers: the higher, the more careful.

    Raises:
      UserError: If a number is not positive and finite.
    """
    tau, betas = np.asarray(activation_mean, np.float64), np.asarray(betas, np.float64)
    for name, values, remedy in (
        ("beta", betas, "the published one is 6"),
        ("activation_mean", tau, "measure it on a network whose heads are trained"),
    ):
        wrong = np.flatnonzero(~((values > 0) & np.isfinite(values)))
        if len(wrong):
            raise UserError(
                f"{name}[{wrong[0]}]={values[wrong[0]]:g} must be positive and finite; "
                f"{remedy}"
            )
    return (betas[:, None] * tau[None]).astype(np.float32)


def check_starts(starts: Sequence[int], num_exits: int) -> np.ndarray:
    """Returns first exits to test as int32 ``[M]``.

    Raises:
      UserError: If one is not an exit, 0 .. E - 1.
    """
    starts = np.asarray(starts, np.int32)
    for start in starts:
        if not 0 <= start < num_exits:
            raise UserError(
                f"start={start} is no exit to begin with; choose from 0 to "
                f"{num_exits - 1}"
            )
    return starts


def strength(logits: jax.Array) -> jax.Array:
    """Returns max|z|, which the exit test compares: ``[..., C]`` to ``[...]``."""
    return jnp.max(jnp.abs(logits), axis=-1)


def forecast_strengths(logits: jax.Array, rounds: int) -> jax.Array:
    """Returns max|z| after 1 .. R sums of each class with its two neighbours.

    Args:
      logits: ``[B, C]``; beyond the first and the last class are zeros.
      rounds: R, 8 as published and 5 for STL-10.

    Returns:
      ``[R, B]``.
    """
    found = []
    for _ in range(rounds):
        padded = jnp.pad(logits, ((0, 0), (1, 1)))
        logits = padded[:, :-2] + logits + padded[:, 2:]
        found.append(strength(logits))
    return jnp.stack(found)


def forecast_steps(
    strengths: jax.Array, bounds: jax.Array, k: int | jax.Array
) -> jax.Array:
    """Forecasts how many exits further samples will pass, as published.

    That is the first i whose strength is above (not at) the bound of exit k + i, or of
    the last exit where there is no such exit; R where there is none.

    Args:
      strengths: After 1 .. R sums, ``[R, B]``.
      bounds: beta tau, ``[M, E]``.
      k: The exit that has just been tested.

    Returns:
      int32 ``[M, B]``, each in 1 .. R.
    """
    rounds = len(strengths)
    ahead = jnp.minimum(k + 1 + jnp.arange(rounds), bounds.shape[1] - 1)
    above = strengths[None] > bounds[:, ahead][:, :, None]  # [M, R, B]
    first = jnp.argmax(above, axis=1) + 1
    return jnp.where(above.any(axis=1), first, rounds).astype(jnp.int32)


def decide(
    logits: jax.Array,
    bounds: jax.Array,
    starts: jax.Array,
    *,
    rounds: int = 8,
    past_last: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Runs M published policies on saved logits.

    Args:
      logits: Of the tested exits, ``[E, B, C]``.
      bounds: beta tau, ``[M, E]``.
      starts: The first exit tested, int32 ``[M]``; see ``check_starts``.
      rounds: R of the forecast.
      past_last: Whether a forecast beyond the last exit leads to the network's end, as
        in ResNet-34, or to the last exit first, as in VGG-19.

    Returns:
      Where each sample leaves, int32 ``[M, B]`` in 0 .. E, and which exits it tested,
      bool ``[M, E, B]``.
    """
    num_exits, batch, _ = logits.shape

    def at_exit(state, exit_):
        target, left = state
        k, z = exit_
        tests = (target == k) & (left == num_exits)
        leaves = tests & (strength(z)[None] >= bounds[:, k][:, None])
        ahead = k + forecast_steps(forecast_strengths(z, rounds), bounds, k)
        ahead = ahead if past_last else jnp.minimum(ahead, num_exits - 1)
        target = jnp.where(tests & ~leaves, ahead, target)
        return (target, jnp.where(leaves, k, left)), tests

    shape = (len(bounds), batch)
    targets = jnp.broadcast_to(jnp.asarray(starts, jnp.int32)[:, None], shape)
    state = targets, jnp.full(shape, num_exits, jnp.int32)
    exits = jnp.arange(num_exits, dtype=jnp.int32), logits
    (_, left), tested = jax.lax.scan(at_exit, state, exits)
    return left, tested.swapaxes(0, 1)


def path_costs(
    left: np.ndarray, tested: np.ndarray, costs: np.ndarray, head_costs: np.ndarray
) -> np.ndarray:
    """Returns what samples cost: the network up to where they left, and heads tested.

    The forecast itself is free: 3 C R additions are nothing against a stage.

    Args:
      left: Where samples leave, ``[M, B]`` in 0 .. E.
      tested: Which exits they tested, ``[M, E, B]``.
      costs: Cumulative up to each exit and the end, all heads included, ``[E + 1]``.
      head_costs: Of the heads alone, the end's included, ``[E + 1]``.

    Returns:
      float64 ``[M, B]``.
    """
    head_costs = np.asarray(head_costs, np.float64)
    backbone = np.asarray(costs, np.float64) - np.cumsum(head_costs)
    ends = np.where(np.asarray(left) == len(backbone) - 1, head_costs[-1], 0.0)
    heads = np.einsum("mkb,k->mb", tested, head_costs[:-1])
    return backbone[left] + heads + ends
