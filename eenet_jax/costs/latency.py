"""Time per exit, measured on the device at hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.exits import ExitCosts
from eenet_jax.stopwatch import take_turns


def exit_latency_ms(
    backbone: Backbone, variables: Any, x: Any, *, repeats: int = 20
) -> ExitCosts:
    """Measures milliseconds per sample up to each exit.

    For each exit, the stem, the stages and all heads up to there run as one compiled
    program. The exits take turns, so that a drift of the machine's speed meets all of
    them alike; medians are taken after a warm-up.

    Args:
      backbone: The network.
      variables: Its variables.
      x: Input batch; the time is divided by its size.
      repeats: Timed runs of each exit.

    Returns:
      Costs that do not fall from exit to exit (where noise makes them fall, the higher
      earlier value stands); ``details`` has the device, the batch size, the type, the
      versions, and the raw medians and quartiles.
    """
    batch_size = jax.tree.leaves(x)[0].shape[0]
    timed = exit_runs(backbone, variables, x)
    ms = np.stack(list(take_turns(timed, repeats).values()), axis=1)
    low, median, high = np.quantile(ms / batch_size, (0.25, 0.5, 0.75), 0)
    device = jax.devices()[0]
    details = {
        "batch_size": batch_size,
        "device": device.device_kind,
        "platform": device.platform,
        "dtype": backbone.dtype,
        "jax": jax.__version__,
        "repeats": repeats,
        "median_ms": median.tolist(),
        "quartiles_ms": [low.tolist(), high.tolist()],
    }
    return ExitCosts(np.maximum.accumulate(median), None, "latency_ms", details)


def exit_runs(
    backbone: Backbone, variables: Any, x: Any
) -> dict[int, Callable[[], Any]]:
    """Returns for each exit what runs a batch up to there, all heads included."""
    prefixes = [jax.jit(_prefix(backbone, k)) for k in range(backbone.num_exits)]
    return {k: functools.partial(run, variables, x) for k, run in enumerate(prefixes)}


def _prefix(backbone: Backbone, last: int) -> Any:
    """Returns ``(variables, x) -> logits of exits 0..last``."""

    def run(variables: Any, x: Any) -> list[jax.Array]:
        carry = backbone.stem(variables, x)
        logits = []
        for k in range(last + 1):
            carry = backbone.stage(k, variables, carry)
            logits.append(backbone.head(k, variables, carry))
        return logits

    return run
