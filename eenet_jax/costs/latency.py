"""Time per exit, measured on the device at hand."""

import functools
from collections.abc import Callable, Mapping
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
    program; each head also runs alone. All take turns, so that a drift of the machine's
    speed meets all of them alike; medians are taken after a warm-up.

    Args:
      backbone: The network.
      variables: Its variables.
      x: Input batch; the time is divided by its size.
      repeats: Timed runs of each exit.

    Returns:
      Costs that do not fall from exit to exit (where noise makes them fall, the higher
      earlier value stands), and those of heads; ``details`` has the device, the batch
      size, the type, the versions, and the raw medians and quartiles.
    """
    batch_size, num_exits = jax.tree.leaves(x)[0].shape[0], backbone.num_exits
    exits = exit_runs(backbone, variables, x)
    heads = head_runs(backbone, variables, x)
    timed = {f"exit {k}": run for k, run in exits.items()}
    timed |= {f"head {k}": run for k, run in heads.items()}
    ms = np.stack(list(take_turns(timed, repeats).values()), axis=1) / batch_size
    low, median, high = np.quantile(ms[:, :num_exits], (0.25, 0.5, 0.75), 0)
    alone = np.median(ms[:, num_exits:], axis=0)
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
        "head_ms": alone.tolist(),
    }
    return measured(median, alone, "latency_ms", details)


def measured(
    exits: np.ndarray, heads: np.ndarray, unit: str, details: Mapping[str, Any]
) -> ExitCosts:
    """Makes costs of what was measured up to each exit, and of each head alone.

    Costs do not fall, and a head is not dearer than what its exit adds: alone it takes
    a call of its own.
    """
    costs = np.maximum.accumulate(exits)
    heads = np.minimum(heads, np.diff(costs, prepend=0))
    return ExitCosts(costs, heads, unit, details)


def exit_runs(
    backbone: Backbone, variables: Any, x: Any
) -> dict[int, Callable[[], Any]]:
    """Returns for each exit what runs a batch up to there, all heads included."""
    prefixes = [jax.jit(_prefix(backbone, k)) for k in range(backbone.num_exits)]
    return {k: functools.partial(run, variables, x) for k, run in enumerate(prefixes)}


def head_runs(
    backbone: Backbone, variables: Any, x: Any
) -> dict[int, Callable[[], Any]]:
    """Returns for each exit what runs its head alone on what a batch has become."""
    runs, carry = {}, jax.jit(backbone.stem)(variables, x)
    stage = jax.jit(backbone.stage, static_argnums=0)
    for k in range(backbone.num_exits):
        carry = stage(k, variables, carry)
        head = jax.jit(functools.partial(backbone.head, k))
        runs[k] = functools.partial(head, variables, carry)
    return runs


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
