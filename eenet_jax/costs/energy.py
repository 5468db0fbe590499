"""Energy a sample: measured by the device where it can be, else by a stated model.

Measured: NVIDIA's energy counter through NVML, or Linux's RAPL of the processor
package where it may be read. Modelled: dynamic power C V^2 f beside static power, at
levels of frequency and voltage (DVFS). Work takes as many times longer as the
frequency is lower.

With DVFS a policy that forecasts its next exit can run up to there at the lowest level
whose time for that depth is within the full network's at the highest: the sooner the
exit, the slower the clock may be. A forecast that fails is followed by another, at a
higher level, so that some samples take longer than the full network; how many is said.
"""

import dataclasses
import glob
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax.costs.exits import ExitCosts
from eenet_jax.costs.latency import measured
from eenet_jax.errors import UserError

LEAST_SECONDS = 0.5  # for counters that step every few to 100 ms
RAPL = "/sys/class/powercap/intel-rapl:*"


@dataclasses.dataclass(frozen=True)
class EnergyModel:
    """A device with levels of frequency and voltage.

    Attributes:
      frequencies: GHz, rising, ``[L]``.
      volts: At each, not falling, ``[L]``.
      dynamic_watts: Dynamic power at the highest level.
      static_watts: Drawn at every level.
    """

    frequencies: tuple[float, ...]
    volts: tuple[float, ...]
    dynamic_watts: float
    static_watts: float

    def __post_init__(self):
        rising = np.diff(self.frequencies, prepend=0) > 0
        if len(self.volts) != len(self.frequencies) or not rising.all():
            raise UserError(
                f"frequencies={self.frequencies} must be positive and rise, and "
                f"volts={self.volts} must be as many"
            )
        if min(*self.volts, self.dynamic_watts) <= 0 or self.static_watts < 0:
            raise UserError(
                f"volts={self.volts} and dynamic_watts={self.dynamic_watts} must be "
                f"positive, static_watts={self.static_watts} at least 0"
            )

    @property
    def watts(self) -> np.ndarray:
        """Power at each level, ``[L]``."""
        share = np.square(self.volts) * np.array(self.frequencies)
        return self.static_watts + self.dynamic_watts * share / share[-1]

    @property
    def slowdown(self) -> np.ndarray:
        """What the time at the highest level is multiplied by at each, ``[L]``."""
        return self.frequencies[-1] / np.array(self.frequencies)


# An embedded GPU of 15 W, made up after the ranges that vendors publish: no device.
DEFAULT_MODEL = EnergyModel(
    frequencies=(0.32, 0.52, 0.73, 0.93, 1.12, 1.3),
    volts=(0.7, 0.75, 0.82, 0.9, 1.0, 1.1),
    dynamic_watts=12.0,
    static_watts=3.0,
)


def modelled_costs(times: ExitCosts, model: EnergyModel = DEFAULT_MODEL) -> ExitCosts:
    """Returns millijoules per sample at the highest level, from milliseconds."""
    watts = model.watts[-1]
    heads = None if times.head_costs is None else watts * times.head_costs
    details = {
        **times.details,
        "energy": "modelled, not measured: milliseconds times the power of the highest "
        "level of `model`",
        "model": dataclasses.asdict(model),
    }
    return ExitCosts(watts * times.costs, heads, "energy_mj", details)


def measured_costs(
    runs: Mapping[int, Callable[[], Any]],
    heads: Mapping[int, Callable[[], Any]],
    batch_size: int,
    counter: tuple[str, Callable[[], float]],
    details: Mapping[str, Any],
) -> ExitCosts:
    """Measures millijoules per sample up to each exit.

    Args:
      runs: For each exit k what runs a batch up to there, heads included.
      heads: For each exit what runs its head alone.
      batch_size: Samples a run.
      counter: What ``find_counter`` returned.
      details: Of the measurement.
    """
    name, read = counter
    exits, alone = (
        np.array([_spent(run, read) / batch_size for run in of_kind.values()])
        for of_kind in (runs, heads)
    )
    details = {**details, "energy": f"measured: {name}", "raw_mj": exits.tolist()}
    details["head_mj"] = alone.tolist()
    return measured(exits, alone, "energy_mj", details)


def _spent(run: Callable[[], Any], read: Callable[[], float]) -> float:
    """Returns the mean energy of a call."""
    jax.block_until_ready(run())
    count, begun, start = 0, time.perf_counter(), read()
    while time.perf_counter() - begun < LEAST_SECONDS:
        jax.block_until_ready(run())
        count += 1
    return (read() - start) / count


def find_counter() -> tuple[str, Callable[[], float]] | None:
    """Returns an energy counter's name and what reads it in millijoules, or None."""
    if jax.default_backend() == "gpu":
        return _nvml()
    zones = [zone for zone in map(pathlib.Path, sorted(glob.glob(RAPL))) if _of(zone)]
    if jax.default_backend() != "cpu" or not zones:
        return None
    return "RAPL of the processor's packages, all that runs there included", Rapl(zones)


class Rapl:
    """Millijoules of some zones since the first reading; they begin anew at a range."""

    def __init__(self, zones: Sequence[pathlib.Path]):
        self._zones, self._total = zones, 0
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._last = [_number(zone / "energy_uj") for zone in zones]

    def __call__(self) -> float:
        """Reads the counters, which must not have begun anew twice since."""
        now = [_number(zone / "energy_uj") for zone in self._zones]
        for value, last, most in zip(now, self._last, self._ranges, strict=True):
            self._total += value - last if value >= last else value - last + most
        self._last = now
        return self._total / 1e3


def _nvml() -> tuple[str, Callable[[], float]] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        place = nvml_place(
            os.environ.get("CUDA_VISIBLE_DEVICES"), jax.devices()[0].local_hardware_id
        )
        find = (
            pynvml.nvmlDeviceGetHandleByUUID
            if isinstance(place, str)
            else pynvml.nvmlDeviceGetHandleByIndex
        )
        device = find(place)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except Exception:  # not installed, or too old a device
        return None

    def read() -> float:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device))

    return "NVML's counter of the GPU", read


def nvml_place(visible: str | None, number: int) -> int | str:
    """Returns where NVML, which sees all GPUs, has a GPU of this process.

    Args:
      visible: ``CUDA_VISIBLE_DEVICES``, or None.
      number: Of the GPU among those.

    Returns:
      Its index, or its UUID where it is made visible by that.
    """
    if not visible:
        return number
    name = visible.split(",")[number].strip()
    return int(name) if name.isdigit() else name


def _of(zone: pathlib.Path) -> bool:
    """Says whether a zone is a package and may be read; "psys" contains packages."""
    try:
        name = (zone / "name").read_text()
        _number(zone / "max_energy_range_uj")
        return name.startswith("package") and _number(zone / "energy_uj") >= 0
    except (OSError, ValueError):
        return False


def _number(path: pathlib.Path) -> int:
    return int(path.read_text())


@dataclasses.dataclass(frozen=True)
class Scaled:
    """What DVFS makes of N samples.

    Attributes:
      energy_mj: ``[N]``.
      ms: ``[N]``.
      late: Share that took longer than the full network at the highest level.
    """

    energy_mj: np.ndarray
    ms: np.ndarray
    late: float


def scale_to_forecasts(
    model: EnergyModel,
    tested: np.ndarray,
    exit_index: np.ndarray,
    backbone_ms: np.ndarray,
    head_ms: np.ndarray,
) -> Scaled:
    """Runs every stretch between two tests at the level that its end allows.

    Args:
      model: Of the device.
      tested: Which exits each sample tests, bool ``[K, N]``, the one it leaves at
        among them.
      exit_index: Where it leaves, ``[N]``.
      backbone_ms: Up to each exit without heads, at the highest level, ``[K]``.
      head_ms: Of the heads, ``[K]``.

    Returns:
      Energy and time of the samples.
    """
    num_samples = len(exit_index)
    full_ms = backbone_ms[-1] + head_ms[-1]
    energy, ms, before, heads = np.zeros((4, num_samples))
    for k in range(len(tested)):
        here = tested[k] & (exit_index >= k)
        depth = backbone_ms[k] + heads + head_ms[k]  # at the highest level
        # The lowest level that is quick enough; beyond the full network the highest.
        allowed = model.slowdown[None] * depth[:, None] <= full_ms * (1 + 1e-9)
        level = np.where(allowed.any(1), allowed.argmax(1), len(model.watts) - 1)
        stretch = (backbone_ms[k] - before + head_ms[k]) * model.slowdown[level]
        energy += np.where(here, stretch * model.watts[level], 0.0)
        ms += np.where(here, stretch, 0.0)
        before = np.where(here, backbone_ms[k], before)
        heads = np.where(here, heads + head_ms[k], heads)
    return Scaled(energy, ms, float((ms > full_ms * (1 + 1e-9)).mean()))
