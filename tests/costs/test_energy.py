"""Energy: the model by hand, the counters, and clocks that follow forecasts."""

import numpy as np
import pytest

from eenet_jax.costs import energy
from eenet_jax.costs.exits import ExitCosts
from eenet_jax.errors import UserError

# At half the clock half the voltage: an eighth of the dynamic power, twice the time.
MODEL = energy.EnergyModel((1.0, 2.0), (0.5, 1.0), dynamic_watts=8.0, static_watts=1.0)


def test_power_and_time_of_levels():
    np.testing.assert_allclose(MODEL.watts, [2.0, 9.0])
    np.testing.assert_allclose(MODEL.slowdown, [2.0, 1.0])
    times = ExitCosts(
        np.array([1.0, 3.0]), np.array([0.5, 0.0]), "latency_ms", {"a": 1}
    )
    found = energy.modelled_costs(times, MODEL)
    np.testing.assert_allclose(found.costs, [9, 27])
    np.testing.assert_allclose(found.head_costs, [4.5, 0])
    assert found.unit == "energy_mj" and found.details["a"] == 1
    assert found.details["energy"].startswith("modelled, not measured")
    assert found.details["model"]["volts"] == (0.5, 1.0)


def test_clocks_follow_forecasts():
    backbone, heads = np.array([1.0, 3.0, 8.0]), np.array([1.0, 1.0, 0.0])
    tested = np.array([[1, 1, 0], [0, 1, 0], [1, 1, 1]], bool)
    found = energy.scale_to_forecasts(
        MODEL, tested, np.array([0, 2, 2]), backbone, heads
    )
    # Up to exit 1 with its head 2 ms, at half the clock 4 of the 8 that are allowed.
    first = 4 * 2.0
    # Up to exit 2 with both heads 5 ms, too long at half the clock.
    second = 3 * 9.0
    np.testing.assert_allclose(found.energy_mj, [first, first + second + 45, 72])
    np.testing.assert_allclose(found.ms, [4, 4 + 3 + 5, 8])
    assert found.late == pytest.approx(1 / 3)


def test_at_one_level_energy_is_power_times_time():
    one = energy.EnergyModel((1.0,), (1.0,), dynamic_watts=4.0, static_watts=1.0)
    rng = np.random.default_rng(0)
    exits = rng.integers(0, 4, 50)
    tested = (rng.random((4, 50)) < 0.5) | (np.arange(4)[:, None] == exits)
    backbone, heads = np.array([1.0, 2, 3, 4]), np.array([0.5, 0.4, 0.3, 0.2])
    found = energy.scale_to_forecasts(one, tested, exits, backbone, heads)
    asked = tested & (np.arange(4)[:, None] <= exits)
    expected = backbone[exits] + heads @ asked
    np.testing.assert_allclose(found.ms, expected)
    np.testing.assert_allclose(found.energy_mj, 5 * expected)


def test_a_counter_is_read_before_and_after(monkeypatch):
    monkeypatch.setattr(energy, "LEAST_SECONDS", 0.01)
    runs, joules = [], {0: 4.0, 1: 12.0, "head 0": 1.0, "head 1": 20.0}
    spent = [0.0]

    def run(k):
        runs.append(k)
        spent[0] += joules[k]

    counter = "a counter", lambda: spent[0]
    exits, heads = (
        {k: lambda name=name: run(name) for k, name in enumerate(names)}
        for names in ((0, 1), ("head 0", "head 1"))
    )
    found = energy.measured_costs(exits, heads, 2, counter, {"batch_size": 2})
    np.testing.assert_allclose(found.costs, [2.0, 6.0])
    np.testing.assert_allclose(found.head_costs, [0.5, 4.0])
    assert found.details["energy"] == "measured: a counter" and runs.count(1) > 1


def test_rapl_is_found_where_it_may_be_read(monkeypatch, tmp_path):
    assert energy.find_counter() is None or energy.find_counter()[0].startswith("RAPL")
    monkeypatch.setattr(energy, "RAPL", str(tmp_path / "intel-rapl:*"))
    assert energy.find_counter() is None
    zones = [tmp_path / f"intel-rapl:{i}" for i in range(4)]
    names = "package-0", "package-1", "psys", "package-2"
    for zone, name in zip(zones, names, strict=True):
        zone.mkdir()
        for file, text in (
            ("name", name),
            ("energy_uj", "1500"),
            ("max_energy_range_uj", "9000"),
        ):
            (zone / file).write_text(f"{text}\n")
    (zones[3] / "energy_uj").write_text("not a number")
    name, read = energy.find_counter()
    assert name.startswith("RAPL") and read() == 0
    for zone, microjoules in zip(zones, (3500, 500, 9000), strict=False):
        (zone / "energy_uj").write_text(f"{microjoules}\n")
    # The second has begun anew; the third contains the others.
    assert read() == 2.0 + 8.0


@pytest.mark.parametrize(
    "visible, number, place",
    [
        (None, 1, 1),
        ("", 0, 0),
        ("3", 0, 3),
        ("2, 0", 1, 0),
        ("GPU-5f2e,GPU-81ab", 1, "GPU-81ab"),
    ],
)
def test_nvml_sees_all_gpus(visible, number, place):
    assert energy.nvml_place(visible, number) == place


@pytest.mark.parametrize(
    "change, message",
    [
        ({"frequencies": (2.0, 1.0)}, r"frequencies=\(2.0, 1.0\) must be positive"),
        ({"volts": (1.0,)}, r"volts=\(1.0,\) must be as many"),
        ({"dynamic_watts": 0.0}, "dynamic_watts=0.0 must be positive"),
        ({"static_watts": -1.0}, "static_watts=-1.0 at least 0"),
    ],
)
def test_models_that_cannot_be_are_refused(change, message):
    fields = {**vars(MODEL), **change}
    with pytest.raises(UserError, match=message):
        energy.EnergyModel(**fields)
