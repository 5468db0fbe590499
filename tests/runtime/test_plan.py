"""The planner gathers where the profile says it pays, and says why not elsewhere."""

import dataclasses

import numpy as np
import pytest

from eenet_jax.adaptive import unasked_ms
from eenet_jax.costs.profile import Profile, load_profile, measure_profile
from eenet_jax.errors import UserError
from eenet_jax.predictions import Split
from eenet_jax.runtime.plan import ideal_ms, plan_ladders
from eenet_jax.schedulers.policy import Policy

SIZES = (2, 4, 6, 8)


def profile(stage_ms, gather=0.1) -> Profile:
    stage_ms = np.array(stage_ms, float)
    return Profile(
        network="n",
        dtype="float32",
        device="some device",
        versions="jax 1",
        repeats=3,
        sizes=SIZES,
        stage_ms=stage_ms,
        spread_ms=np.stack([stage_ms, stage_ms]),
        gather_ms=np.full(len(stage_ms), gather),
    )


LINEAR, FLAT = [2.0, 4.0, 6.0, 8.0], [8.0, 8.0, 8.0, 8.0]


def test_flat_costs_keep_batches_whole_and_say_why():
    found = plan_ladders(profile([FLAT, FLAT, FLAT]))
    assert found.ladders == ((8,), (8,), (8,))
    assert found.reason == (
        "whole batches of 8: gathering does not pay on some device; at best, stage 2 "
        "takes 8 ms for 2 samples and 0.1 ms to gather them, against 8 ms for all"
    )


def test_gathering_must_cost_less_than_it_saves():
    assert plan_ladders(profile([LINEAR, LINEAR])).ladders == ((8,), SIZES)
    assert plan_ladders(profile([LINEAR, LINEAR], gather=5)).ladders == ((8,), (2, 8))
    found = plan_ladders(profile([LINEAR, LINEAR], gather=7))
    assert found.ladders == ((8,), (8,)) and "whole batches" in found.reason


def test_a_size_that_saves_nothing_is_left_out():
    found = plan_ladders(profile([LINEAR, [4.0, 4.0, 7.9, 8.0], FLAT], gather=0))
    assert found.ladders == ((8,), (4, 8), (8,))
    assert found.reason.endswith("8 (stage 2: 4, 8; stage 3: 8)")


def test_the_ideal_is_what_is_left_times_its_time():
    three = profile([LINEAR, LINEAR, LINEAR])
    shares = np.array([0.5, 0.25, 0.25])
    gathered = plan_ladders(three).ladders
    assert ideal_ms(three, gathered, shares, 0.0) == pytest.approx(1 + 0.5 + 0.25)
    assert ideal_ms(three, ((8,),) * 3, shares, 0.0) == pytest.approx(3)
    all_leave = np.array([1.0, 0, 0])
    assert ideal_ms(three, ((8,),) * 3, all_leave, 0.0) == pytest.approx(1)


def test_heads_that_nobody_asks_for_take_no_time():
    heads = np.array([1.6, 0.8, 10.0])  # the last was measured as more than its stage
    known = dataclasses.replace(profile([LINEAR] * 3), head_ms=heads)
    costs = known.exit_costs()
    np.testing.assert_allclose(costs.head_costs, [0.2, 0.1, 1.0])
    policy = Policy("max_prob", {}, np.array([np.inf, 0.8, -np.inf]))
    ladders, shares = plan_ladders(known).ladders, np.array([0, 0.5, 0.5])
    sure = np.log([[0.9, 0.1], [0.6, 0.4]])  # at the second exit one leaves
    split = Split(np.stack([sure] * 3).astype(np.float32), np.zeros(2, np.int32))
    unasked = unasked_ms(known, policy, split)
    expected = 0.8 + 1 + 0.5  # all pass the first head by, half the last stage
    assert ideal_ms(known, ladders, shares, unasked) == pytest.approx(expected)
    assert policy.charges(costs.costs, costs.head_costs) @ shares == expected


def test_a_measured_profile_comes_back_from_its_file(network, tmp_path):
    x = network.x[:8]
    made = measure_profile(
        network.backbone, network.variables, x, sizes=SIZES, repeats=2
    )
    assert made.stage_ms.shape == (3, 4) and (made.stage_ms > 0).all()
    assert (made.spread_ms[0] <= made.stage_ms).all()
    assert (made.stage_ms <= made.spread_ms[1]).all()
    made.save(tmp_path / "p.json")
    read = load_profile(tmp_path / "p.json", network.backbone)
    for field in dataclasses.fields(Profile):
        np.testing.assert_array_equal(
            getattr(read, field.name), getattr(made, field.name)
        )
    costs = made.exit_costs()
    np.testing.assert_allclose(costs.costs, np.cumsum(made.stage_ms[:, -1]) / 8)
    assert costs.unit == "latency_ms" and costs.details["batch_size"] == 8
    other = dataclasses.replace(network.backbone, dtype="bfloat16")
    with pytest.raises(UserError, match="float32, 3 exits; .* 'toy', bfloat16"):
        load_profile(tmp_path / "p.json", other)
    dataclasses.replace(made, samples_per_input=4).save(tmp_path / "p.json")
    with pytest.raises(UserError, match="3 exits, 4 blocks an image; .*, 3 exits$"):
        load_profile(tmp_path / "p.json", network.backbone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is no profile"),
        ("[]", "is no profile"),
        ('{"sizes": [1]}', "is no profile"),
    ],
)
def test_broken_profiles_are_refused(network, tmp_path, text, message):
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"--profile=.*p.json {message}"):
        load_profile(path, network.backbone)


def test_many_exits_run_in_the_tiles_that_take_least_on_average():
    # Tiles of 2, 4, 6 and 8 are run 2.5, 1.5, 1.25 times and once, on average, and 2 ms
    # of each timing are at most the call's.
    found = plan_ladders(profile([LINEAR] * 9))
    assert found.ladders == ((8,), *(2,) * 8)
    assert found.reason == "samples that are left of batches of 8 run 2 at a time"
    slow_in_small = [5.0, 5.0, 6.2, 8.0]  # 7.5, 4.5, 5.25 and 6 ms
    slow = plan_ladders(profile([LINEAR] + [slow_in_small] * 8))
    assert slow.ladders == ((8,), *(4,) * 8)
    last_only = np.eye(9)[8]
    each = found.ladders, last_only, 0.0
    assert ideal_ms(profile([LINEAR] * 9), *each) == pytest.approx(9)
    flat = plan_ladders(profile([FLAT] * 9))
    assert flat.ladders == ((8,), *(8,) * 8) and "whole batches of 8" in flat.reason
    half = np.array([0.5, *[0.0] * 7, 0.5])
    assert ideal_ms(profile([FLAT] * 9), flat.ladders, half, 0.0) == pytest.approx(
        9 * FLAT[-1] / 8
    )
