"""Wall time of repeated calls."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


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
