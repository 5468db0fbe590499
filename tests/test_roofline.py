"""Utilisation, the roofline, the search for a batch, and how busy a device was."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from benchmarks import device_trace, roofline

DEVICE = roofline.Device(flops=100e12, bandwidth=1e12)  # full from 100 FLOPs a byte
TRACE = """
planes { name: "/device:GPU:%d"
  lines { name: "Stream #13(Compute)" timestamp_ns: 1000
    events { offset_ps: 0 duration_ps: 2000000 }
    events { offset_ps: 6000000 duration_ps: 4000000 } }
  lines { name: "Stream #14(MemcpyD2D)" timestamp_ns: 2000
    events { offset_ps: 0 duration_ps: %d } }
  lines { name: "XLA Modules" timestamp_ns: 0
    events { offset_ps: 0 duration_ps: 90000000 } }
}
planes { name: "/host:CPU"
  lines { name: "Stream of thoughts" timestamp_ns: 0
    events { offset_ps: 0 duration_ps: 90000000 } } }
"""


def read(*copies_ns: int) -> ProfileData:
    """A trace of a device for each number: 10 us, a copy of so long among kernels."""
    text = "".join(TRACE % (i, 1000 * ns) for i, ns in enumerate(copies_ns))
    return ProfileData.from_serialized_xspace(
        ProfileData.text_proto_to_serialized_xspace(text)
    )


def test_utilisation_is_the_share_of_the_peak() -> None:
    assert roofline.utilisation(50e12, 2.0, DEVICE) == pytest.approx(0.25)


def test_memory_limits_below_the_ridge_and_not_above() -> None:
    assert roofline.ceiling(25e9, 1e9, DEVICE) == pytest.approx(0.25)
    assert roofline.ceiling(100e9, 1e9, DEVICE) == pytest.approx(1)
    assert roofline.ceiling(400e9, 1e9, DEVICE) == 1
    assert roofline.reason(25e9, 1e9, DEVICE) == (
        "memory-bound: 25 FLOPs a byte where 100 would fill the device, so at most "
        "25 % of peak"
    )
    assert roofline.reason(400e9, 1e9, DEVICE).startswith("compute-bound: 400 FLOPs")


def test_devices_are_known_by_the_longest_name_that_fits() -> None:
    sxm = roofline.find_device("NVIDIA A100-SXM4-80GB")
    assert sxm is not None and sxm.bandwidth == pytest.approx(2.039e12)
    assert roofline.find_device("NVIDIA H200 NVL") == roofline.DEVICES["NVIDIA H200"]
    lite = roofline.DEVICES["TPU v5 lite"]
    assert roofline.find_device("TPU v5 lite") == lite
    assert roofline.find_device("TPU v5") != lite
    for unknown in ("cpu", "NVIDIA A1000", "NVIDIA L40S", ""):
        assert roofline.find_device(unknown) is None


def test_the_batch_is_doubled_while_that_helps() -> None:
    rates = {8: 100.0, 16: 180.0, 32: 182.0, 64: 400.0}
    assert list(roofline.best_batch(rates.get, 8, 64)) == [8, 16, 32]
    rates[32] = None  # does not fit
    assert roofline.best_batch(rates.get, 8, 64) == {8: 100.0, 16: 180.0}
    assert list(roofline.best_batch(lambda size: float(size), 8, 40)) == [8, 16, 32]
    assert roofline.best_batch(lambda size: None, 8, 64) == {}


@pytest.mark.parametrize(
    ("copies_ns", "share"),
    [
        ((1000,), 0.6),  # within a kernel
        ((3000,), 0.8),  # on from one
        ((9000,), 1.0),  # over the gap and into the next
        ((1000, 3000), 0.7),  # the mean of two devices
    ],
)
def test_busy_is_any_kernel_of_the_device(copies_ns, share) -> None:
    assert device_trace.busy_share(read(*copies_ns)) == pytest.approx(share)


def test_a_cpu_has_no_busy_share() -> None:
    x = jnp.ones((64, 64))
    trace = device_trace.record(lambda: jax.jit(jnp.dot)(x, x))
    assert list(trace.planes) and device_trace.busy_share(trace) is None
