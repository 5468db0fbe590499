"""How near a step is to what its device can do, and what keeps it from that.

Figures of known devices, and the arithmetic on them; ``device_trace.py`` reads how long
a device was busy.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

ENOUGH = 1.02  # a batch twice as large has to give this many times the samples a second


class Device(NamedTuple):
    """What a device can do at most, by its maker's data sheet.

    Attributes:
      flops: Dense bfloat16 operations a second.
      bandwidth: Bytes a second from and to its main memory.
    """

    flops: float
    bandwidth: float


# By ``jax.Device.device_kind``; of several names that fit, the longest counts.
DEVICES = {
    "NVIDIA A10": Device(125e12, 0.600e12),
    "NVIDIA A100-PCIE-40GB": Device(312e12, 1.555e12),
    "NVIDIA A100-SXM4-40GB": Device(312e12, 1.555e12),
    "NVIDIA A100 80GB PCIe": Device(312e12, 1.935e12),
    "NVIDIA A100-SXM4-80GB": Device(312e12, 2.039e12),
    "NVIDIA H100 PCIe": Device(756e12, 2.000e12),
    "NVIDIA H100 80GB HBM3": Device(989e12, 3.350e12),
    "NVIDIA H200": Device(989e12, 4.800e12),
    "NVIDIA L4": Device(121e12, 0.300e12),
    "TPU v4": Device(275e12, 1.228e12),
    "TPU v5 lite": Device(197e12, 0.819e12),
    "TPU v5": Device(459e12, 2.765e12),
    "TPU v6 lite": Device(918e12, 1.640e12),
}


def find_device(kind: str) -> Device | None:
    """Returns a known device by the name that JAX gives it, None for others."""
    fits = [
        name
        for name in DEVICES
        if kind == name or kind.startswith((f"{name} ", f"{name}-"))
    ]
    return DEVICES[max(fits, key=len)] if fits else None


def utilisation(flops: float, seconds: float, device: Device) -> float:
    """Returns the share of the device's arithmetic that a step puts to use.

    Args:
      flops: Of the model in a step: 2 x the multiply-adds of the forward pass, times
        three for a training step; what is computed besides does not count.
      seconds: Of the step.
      device: That takes it.
    """
    return flops / seconds / device.flops


def ceiling(flops: float, moved: float, device: Device) -> float:
    """Returns the utilisation that memory alone would allow, in (0, 1].

    The roofline: arithmetic intensity times bandwidth, as a share of the peak.

    Args:
      flops: Of the model in a step.
      moved: Bytes that the step's kernels read and write.
      device: That takes it.
    """
    return min(1.0, flops / moved * device.bandwidth / device.flops)


def reason(flops: float, moved: float, device: Device) -> str:
    """Says which of arithmetic and memory limits a step."""
    most, intensity = ceiling(flops, moved, device), flops / moved
    needed = device.flops / device.bandwidth
    if most < 1:
        return (
            f"memory-bound: {intensity:.3g} FLOPs a byte where {needed:.3g} would fill "
            f"the device, so at most {100 * most:.0f} % of peak"
        )
    return (
        f"compute-bound: {intensity:.3g} FLOPs a byte, and {needed:.3g} fill the "
        "device; what is missing is in the kernels and between them"
    )


def best_batch(
    samples_per_s: Callable[[int], float | None], first: int, most: int
) -> dict[int, float]:
    """Doubles the batch until that helps no more, or memory ends.

    Args:
      samples_per_s: Measures a batch; None if it does not fit.
      first: The smallest tried.
      most: The largest.

    Returns:
      What was measured of each batch that fitted; empty if none did.
    """
    found: dict[int, float] = {}
    size, before = first, 0.0
    while size <= most:
        now = samples_per_s(size)
        if now is None or math.isnan(now):
            break
        found[size] = now
        if now < ENOUGH * before:
            break
        size, before = 2 * size, now
    return found
