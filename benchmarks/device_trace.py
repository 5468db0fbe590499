"""How long a device was busy while a trace of ``jax.profiler`` was recorded."""

import pathlib
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.profiler import ProfileData

DEVICE = "/device:"  # planes of accelerators; CPUs have none
# Where a plane has kernels: one line a stream on GPUs, one of operations on TPUs. The
# other lines (steps, modules) show spans that hold gaps.
KERNELS = ("Stream", "XLA Ops")


def record(run: Callable[[], Any]) -> ProfileData:
    """Returns a trace of what ``run`` starts; it ends once its result is there."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return ProfileData.from_serialized_xspace(file.read_bytes())


def busy_share(trace: ProfileData) -> float | None:
    """Returns the share of time in which a kernel ran, of the devices' mean.

    From a device's first kernel to the end of its last: what the host takes to start
    the first does not count. Kernels that run side by side count once.

    Returns:
      In (0, 1]; None if the trace has no kernels of an accelerator.
    """
    shares = []
    for plane in trace.planes:
        if not plane.name.startswith(DEVICE):
            continue
        spans = [
            (event.start_ns, event.end_ns)
            for line in plane.lines
            if line.name.startswith(KERNELS)
            for event in line.events
        ]
        if spans:
            wall = max(end for _, end in spans) - min(start for start, _ in spans)
            shares.append(covered(spans) / wall if wall else 1.0)
    return sum(shares) / len(shares) if shares else None


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the length of a union of spans (start, end)."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
