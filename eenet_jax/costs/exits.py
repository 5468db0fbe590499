"""What each exit costs, whatever is counted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class ExitCosts:
    """Cost per sample of every exit.

    Attributes:
      costs: Up to and including exit k with the heads of exits 0..k, float64 ``[K]``.
      head_costs: Head k alone, ``[K]``, or None where it was not told apart.
      unit: "mflops", "mparams", "latency_ms" or "energy_mj".
      details: How it was measured, ready for JSON.
    """

    costs: np.ndarray
    head_costs: np.ndarray | None
    unit: str
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
