"""What is done to an exit's logits before any scheduler sees them.

A temperature for each exit makes its probabilities fit the labels (Guo et al., 2017).
Ensembling lets exit k answer with the mean of the probabilities of exits 0..k. Neither
is charged, but for the heads that an ensemble needs: a few operations on C numbers are
nothing against a stage of a network.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.predictions import Predictions, Split

LOWEST, HIGHEST = 0.05, 20.0  # temperatures
STEPS = 40  # halvings of their range, on a logarithmic scale
SURE = 1e4  # margins beyond say the same at every temperature; keeps sums exact

Total = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("temperature",),
    meta_fields=("ensemble", "num_classes"),
)
@dataclasses.dataclass(frozen=True)
class Adjustment:
    """How logits are adjusted: temperature first, then the mean over past exits.

    Attributes:
      temperature: Each exit's logits are divided by it, above 0, float32 ``[K]``; or
        None to leave them.
      ensemble: Whether exit k answers with the mean of the probabilities of exits
        0..k; static.
      num_classes: C; static.
    """

    temperature: jax.Array | None
    ensemble: bool
    num_classes: int

    def init_total(self, batch: int) -> Total:
        """Returns the running total before the first exit; ``()`` if none is kept.

        With ``ensemble`` it is the logarithm of the sum of the past exits'
        probabilities, ``[B, C]``, -inf here. A logarithm, since small probabilities
        still tell samples apart where the largest rounds to 1.
        """
        if not self.ensemble:
            return ()
        return jnp.full((batch, self.num_classes), -jnp.inf, jnp.float32)


def adjust(
    adjustment: Adjustment, k: int, logits: jax.Array, total: Total
) -> tuple[jax.Array, Total]:
    """Adjusts the logits of one exit.

    Args:
      adjustment: Of K exits.
      k: Exit, 0-based.
      logits: The network's, ``[B, C]``.
      total: What ``init_total``, or this function for the exit before, returned.

    Returns:
      Adjusted logits ``[B, C]``, and the new total.
    """
    if adjustment.temperature is not None:
        logits = logits / adjustment.temperature[k]
    if not adjustment.ensemble:
        return logits, total
    total = jnp.logaddexp(total, jax.nn.log_softmax(logits))
    return total - np.float32(np.log(k + 1)), total


def adjust_all(adjustment: Adjustment | None, logits: jax.Array) -> jax.Array:
    """Adjusts the logits of all exits, ``[K, N, C] -> [K, N, C]``.

    Without an adjustment they stay as they are.
    """
    if adjustment is None:
        return logits
    total, adjusted = adjustment.init_total(logits.shape[1]), []
    for k in range(len(logits)):
        of_exit, total = adjust(adjustment, k, logits[k], total)
        adjusted.append(of_exit)
    return jnp.stack(adjusted)


_adjust_all = jax.jit(adjust_all)


def adjust_split(adjustment: Adjustment | None, split: Split) -> Split:
    """Returns one part of saved predictions with its logits adjusted."""
    if adjustment is None:
        return split
    logits = np.asarray(_adjust_all(adjustment, split.logits))
    return dataclasses.replace(split, logits=logits)


def adjust_predictions(
    adjustment: Adjustment | None, predictions: Predictions
) -> Predictions:
    """Returns predictions as a scheduler sees them: their validation part adjusted.

    The scale of the logits is divided like these.
    """
    val, scale = adjust_split(adjustment, predictions.val), predictions.activation_mean
    tempered = adjustment is not None and adjustment.temperature is not None
    if scale is not None and tempered:
        scale = scale / np.asarray(adjustment.temperature, np.float64)
    return dataclasses.replace(predictions, val=val, activation_mean=scale)


def fit_adjustment(
    split: Split, *, temperature: bool, ensemble: bool
) -> Adjustment | None:
    """Fits the adjustment asked for; None if there is nothing to adjust.

    Args:
      split: Samples that the temperatures are fitted to.
      temperature: Whether to fit them.
      ensemble: See ``Adjustment``.
    """
    if not temperature and not ensemble:
        return None
    fitted = None
    if temperature:
        fitted = np.asarray(fit_temperature(split.logits, split.labels))
    return Adjustment(fitted, ensemble, split.logits.shape[-1])


@jax.jit
def fit_temperature(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Finds the temperature of least negative log-likelihood for each exit.

    The likelihood is convex in 1/T, so that the sign of its slope says on which side
    the minimum lies, and bisection finds it.

    Args:
      logits: Finite, ``[K, N, C]``.
      labels: int32 ``[N]``.

    Returns:
      ``[K]``, each in [0.05, 20]. It is 1 where all answers are right, since then the
      likelihood only grows as T falls and says nothing of how sure to be, and 1 where
      that is no less likely than the temperature found.
    """
    place = jnp.broadcast_to(labels[None, :, None], (*logits.shape[:2], 1))
    own = jnp.take_along_axis(logits, place, axis=-1)
    margins = jnp.clip(logits - own, -SURE, SURE)  # over the true class, [K, N, C]

    def divided(log_temperature):
        return margins * jnp.exp(-log_temperature)[:, None, None]

    def loss(log_temperature):
        return jax.nn.logsumexp(divided(log_temperature), axis=-1).mean(axis=-1)

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        slope = (jax.nn.softmax(divided(middle)) * margins).sum(axis=-1).mean(axis=-1)
        sharper = slope < 0  # the likelihood grows with 1/T
        return jnp.where(sharper, low, middle), jnp.where(sharper, middle, high)

    start = jnp.zeros(len(logits))
    ends = start + np.log(LOWEST), start + np.log(HIGHEST)
    low, high = jax.lax.fori_loop(0, STEPS, halve, ends)
    found = (low + high) / 2
    all_right = (margins <= 0).all(axis=(1, 2))
    better = loss(found) < loss(start)
    found = jnp.where(better & ~all_right, jnp.exp(found), 1.0)
    return jnp.clip(found, LOWEST, HIGHEST)


def to_arrays(adjustment: Adjustment | None) -> dict[str, np.ndarray]:
    """Returns what a file keeps of an adjustment; ``{}`` for None."""
    fields = vars(adjustment).items() if adjustment is not None else ()
    return {name: np.asarray(value) for name, value in fields if value is not None}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Adjustment | None:
    """Returns the adjustment that ``to_arrays`` took apart."""
    if not arrays:
        return None
    ensemble, num_classes = bool(arrays["ensemble"]), int(arrays["num_classes"])
    return Adjustment(arrays.get("temperature"), ensemble, num_classes)
