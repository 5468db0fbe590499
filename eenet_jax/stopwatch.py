"""Wall time of calls whose results are waited for."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np

from eenet_jax.writers import Progress

WARM_UP = 2  # calls, of which the first compiles


class Stopwatch:
    """Times calls until their results are there."""

    def __init__(self):
        self._ms: list[float] = []
        self._samples = 0

    def time(self, function: Callable[..., Any], *arguments: Any, samples: int) -> Any:
        """Calls a function; ``samples`` says how many it answers."""
        start = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        self._ms.append(1e3 * (time.perf_counter() - start))
        self._samples += samples
        return result

    def summary(self) -> dict[str, Any]:
        """Returns milliseconds per sample and batch, and samples per second."""
        total = sum(self._ms)
        p50, p95, p99 = np.quantile(self._ms, (0.5, 0.95, 0.99)).tolist()
        return {
            "ms_per_sample": total / self._samples,
            "samples_per_second": 1e3 * self._samples / total,
            "batch_ms": {"p50": p50, "p95": p95, "p99": p99},
        }


def take_turns(
    timed: Mapping[Hashable, Callable[[], Any]], repeats: int, label: str = ""
) -> dict[Hashable, np.ndarray]:
    """Times functions that take turns, so that a drift of the machine meets all alike.

    Args:
      timed: The functions by name.
      repeats: Timed calls of each, after two that are not.
      label: Shown beside a progress bar.

    Returns:
      Milliseconds by name, float64 ``[repeats]``.
    """
    taken: dict[Hashable, list[float]] = {name: [] for name in timed}
    progress = Progress(repeats + WARM_UP, 0, "round")
    for _ in range(repeats + WARM_UP):
        for name, function in timed.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken[name].append(1e3 * (time.perf_counter() - start))
        progress.update(1, label)
    progress.close()
    return {name: np.array(ms[WARM_UP:]) for name, ms in taken.items()}
