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
from eenet_jax.predictions import Predictions

MAX_ROUNDS = 8
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
    """Returns first exits to test, given as 1 .. E, as int32 0 .. E - 1, ``[M]``.

    Raises:
      UserError: If one is not among them.
    """
    for start in starts:
        if not 1 <= start <= num_exits:
            raise UserError(
                f"start={start} is no exit to begin with; choose from 1 to {num_exits}"
            )
    return np.asarray(starts, np.int32) - 1


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


def next_exits(
    strengths: jax.Array,
    bounds: jax.Array,
    k: int | jax.Array,
    rounds: int | jax.Array,
    past_last: bool | jax.Array,
) -> jax.Array:
    """Forecasts the exit that each sample will pass, as published.

    That is k + i for the first i whose strength is above (not at) the bound of exit
    k + i, or of the last exit where there is no such exit; k + R where there is none.

    Args:
      strengths: After 1, 2, .. sums, at least R, ``[.., B]``.
      bounds: beta tau, ``[M, E]``.
      k: The exit that has just been tested.
      rounds: R, 8 as published and 5 for STL-10.
      past_last: Whether a forecast beyond the last exit leads to the network's end, as
        in ResNet-34, or to the last exit first, as in VGG-19.

    Returns:
      int32 ``[M, B]``, in k + 1 .. k + R.
    """
    num_exits, turns = bounds.shape[1], jnp.arange(len(strengths))
    ahead = jnp.minimum(k + 1 + turns, num_exits - 1)
    above = strengths[None] > bounds[:, ahead][:, :, None]  # [M, R, B]
    above &= (turns < rounds)[None, :, None]
    steps = jnp.where(above.any(axis=1), jnp.argmax(above, axis=1) + 1, rounds)
    found = (k + steps).astype(jnp.int32)
    return jnp.where(past_last, found, jnp.minimum(found, num_exits - 1))


def decide(
    logits: jax.Array,
    bounds: jax.Array,
    starts: jax.Array,
    *,
    rounds: int = 8,
    past_last: bool = False,
    following: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Runs M published policies on saved logits.

    Args:
      logits: Of the tested exits, ``[E, B, C]``.
      bounds: beta tau, ``[M, E]``.
      starts: The first exit tested, from 0, int32 ``[M]``.
      rounds: See ``next_exits``.
      past_last: Likewise.
      following: The exit to test after each, int32 ``[M, E]``, in place of forecasts.

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
        if following is not None:
            ahead = jnp.broadcast_to(following[:, k][:, None], target.shape)
        else:
            strengths = forecast_strengths(z, rounds)
            ahead = next_exits(strengths, bounds, k, rounds, past_last)
        target = jnp.where(tests & ~leaves, ahead, target)
        return (target, jnp.where(leaves, k, left)), tests

    shape = (len(bounds), batch)
    targets = jnp.broadcast_to(jnp.asarray(starts, jnp.int32)[:, None], shape)
    state = targets, jnp.full(shape, num_exits, jnp.int32)
    exits = jnp.arange(num_exits, dtype=jnp.int32), logits
    (_, left), tested = jax.lax.scan(at_exit, state, exits)
    return left, tested.swapaxes(0, 1)


def outcomes(
    left: np.ndarray, tested: np.ndarray, predictions: Predictions
) -> np.ndarray:
    """Returns accuracy and mean cost of M policies on the validation part, ``[M, 2]``.

    A sample pays for the network up to where it leaves and for the heads that it tests,
    the end's included. The forecast is free: 3 C R additions are nothing against a
    stage.

    Args:
      left: Where samples leave, ``[M, N]`` in 0 .. E.
      tested: Which exits they tested, ``[M, E, N]``.
      predictions: Of N samples and E + 1 exits.
    """
    left, correct = np.asarray(left), predictions.val.correct
    backbone, heads = predictions.split_costs
    accuracy = correct[left, np.arange(correct.shape[1])].mean(axis=1)
    ends = (left == len(backbone) - 1).mean(axis=1) * heads[-1]
    asked = np.asarray(tested).mean(axis=2)
    cost = backbone[left].mean(axis=1) + ends + asked @ heads[:-1]
    return np.stack([accuracy, cost], axis=1)


def earning_exits(
    staying: np.ndarray, layers: np.ndarray, heads: np.ndarray, share: float = 0.5
) -> np.ndarray:
    """Tells which exits earn their place, by the published rule.

    Exit l does if (TH - s_l) y_{l+1} - (1 - s_l) h_l - (1 - TH) y_l >= 0.

    Args:
      staying: s, the share of samples that does not leave if only exit l is tested,
        ``[..., E]``.
      layers: y, what the layers before each exit cost, those before the end included,
        ``[E + 1]``.
      heads: h, of the exits, ``[E]``.
      share: TH.

    Returns:
      bool ``[..., E]``.
    """
    gain = (share - staying) * layers[1:] - (1 - staying) * heads
    return gain - (1 - share) * layers[:-1] >= 0
