"""What policies that skip exits did, counted by hand."""

import dataclasses

import numpy as np
import pytest

from eenet_jax import paths
from eenet_jax.predictions import Predictions, Split
from eenet_jax.report import paths as report
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers.policy import Policy


@pytest.fixture
def predictions() -> Predictions:
    """Four exits; sample n is sure at exit k by ``sure[k, n]``."""
    sure = np.array(
        [[9, 1, 1, 1, 1], [1, 9, 1, 9, 1], [1, 9, 9, 1, 1], [1, 1, 1, 1, 1]]
    )
    logits = np.zeros((4, 5, 3), np.float32)
    logits[..., 0] = sure
    labels = np.array([0, 0, 1, 0, 0], np.int32)
    heads = np.array([1.0, 1, 1, 0])
    split = Split(logits, labels)
    costs = np.array([3.0, 6, 9, 10])  # of stages 2, 2, 2 and 1
    return Predictions(split, split, costs, cost_unit="mflops", head_costs=heads)


def test_paths_by_hand(predictions):
    following = np.array([2, 2, 3], np.int32)  # exit 2 is never asked
    params = {"start": np.int32(0), "following": following}
    cuts = np.array([5, 5, 5, -np.inf], np.float32)
    policy = Policy("forecast_fixed", params, cuts)
    decisions = simulate(policy, predictions.test, *predictions.prices)
    np.testing.assert_array_equal(decisions.exit_index, [0, 2, 2, 3, 3])
    np.testing.assert_allclose(decisions.cost, [3, 8, 8, 9, 9])
    found = paths.statistics(policy, predictions, decisions)
    assert found["asked"] == [1.0, 0.0, 0.8, 0.4]
    assert found["left"] == [0.2, 0.0, 0.4, 0.4]
    assert found["accuracy"] == [1.0, None, 0.5, 1.0]
    assert found["cost"] == [3.0, None, 8.0, 9.0]
    # At exit 1 four forecasts of exit 3: two samples would leave at 2 already, one
    # leaves at 3, one does not. At exit 3 two of the end.
    assert found["forecasts"] == [0.8, 0.0, 0.4]
    assert found["hit"] == [0.25, None, 1.0]
    assert found["late"] == [0.5, None, 0.0] and found["early"] == [0.25, None, 0.0]
    assert found["unasked"] == [
        "exit 2: no forecast names it; its head costs 1 mflops, and leaving there "
        "saves 2 over exit 3"
    ]
    # "published" has no target behind the last exit but that exit: its end is meant.
    following = np.array([2, 2, 2], np.int32)
    policy = Policy("forecast_fixed", {**params, "following": following}, cuts)
    assert paths.statistics(policy, predictions, decisions)["hit"] == found["hit"]
    all_leave = Policy("forecast_fixed", params, np.append([-np.inf] * 3, -np.inf))
    decisions = simulate(all_leave, predictions.test, *predictions.prices)
    gone = paths.statistics(all_leave, predictions, decisions)["unasked"]
    assert gone == [f"exit {k}: everyone has left before" for k in (2, 3, 4)]
    text = report.table(
        {"cost_unit": "mflops", "paths": {"some": {"budget": 7.0, **found}}}
    )
    assert "Exits that some asks at budget 7 mflops" in text
    assert "2.20 heads a sample, of 3.00 if all" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "100.0", "20.0", "100.0", "25.0", "50.0", "25.0", "3"] in rows
    assert ["2", "0.0", "0.0", "-", "-", "-", "-", "-"] in rows


def test_clocks_are_lowered_to_what_forecasts_allow(predictions):
    model = {"frequencies": (0.5, 1.0), "volts": (0.8, 1.0)}
    model |= {"dynamic_watts": 8.0, "static_watts": 2.0}  # 4.56 and 10 W
    following = np.array([2, 2, 3], np.int32)
    params = {"start": np.int32(0), "following": following}
    policy = Policy("forecast_fixed", params, np.array([5, 5, 5, -np.inf], np.float32))
    spent = dataclasses.replace(predictions, cost_unit="energy_mj")
    decisions = simulate(policy, spent.test, *spent.prices)
    found = paths.scaled(spent, decisions, model)
    assert found["highest_mj"] == pytest.approx(np.mean([3, 8, 8, 9, 9]))
    assert found["highest_ms"] == pytest.approx(found["highest_mj"] / 10)
    assert found["full_mj"] == pytest.approx(7.0)  # stages of 2, 2, 2 and 1
    # Exit 1 is 0.3 ms deep, within the full network's 0.7 ms at half the clock too;
    # the stretches after it are not, and end later than that.
    first, others = 0.6 * 4.56, np.array([5, 5, 6, 6])
    assert found["energy_mj"] == pytest.approx((5 * first + others.sum()) / 5)
    assert found["ms"] == pytest.approx((5 * 0.6 + others.sum() / 10) / 5)
    assert found["late"] == 0.8
    line = report.table(
        {
            "cost_unit": "energy_mj",
            "paths": {
                "some": {
                    "budget": 7.0,
                    **paths.statistics(policy, spent, decisions),
                    "dvfs": found,
                }
            },
        }
    ).splitlines()[-1]
    assert line.startswith(f"With DVFS, modelled: {found['energy_mj']:.4g} mJ")
    assert "the full network 7 mJ in 0.7 ms, and 80.0 % take longer." in line
