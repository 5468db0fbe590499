"""The schedule of MSDNets: the published one, both prunings, what is refused."""

import dataclasses

import pytest

from eenet_jax.backbones.msdnet_plan import (
    BranchPlan,
    LayerPlan,
    ScalePlan,
    Shape,
    plan,
)
from eenet_jax.errors import UserError

CIFAR = Shape(
    num_blocks=5,
    base=4,
    step=2,
    step_mode="even",
    scales=3,
    growth_factors=(1, 2, 4),
    bottleneck_factors=(1, 2, 4),
    channels=16,
    growth=6,
    prune="max",
    reduction=0.5,
    bottleneck=True,
)
IMAGENET = dataclasses.replace(
    CIFAR,
    base=7,
    step=7,
    scales=4,
    growth_factors=(1, 2, 4, 4),
    bottleneck_factors=(1, 2, 4, 4),
    channels=32,
    growth=16,
)


def test_the_imagenet_schedule_is_the_published_one():
    layers = [p for p in plan(IMAGENET) if isinstance(p, LayerPlan)]
    found = [(p.block, p.scales_in, len(p.scales), p.base) for p in layers]
    expected = [
        *((0, 4, 4, n) for n in (32, 48, 64, 80, 96, 112, 128)),
        *((1, 4, 4, n) for n in (144, 160)),
        (1, 4, 3, 176),
        *((1, 3, 3, n) for n in (96, 112, 128, 144)),
        *((2, 3, 3, n) for n in (160, 176, 192, 208)),
        (2, 3, 2, 224),
        *((2, 2, 2, n) for n in (120, 136)),
        *((3, 2, 2, n) for n in (152, 168, 184, 200, 216, 232)),
        (3, 2, 1, 248),
        *((4, 1, 1, n) for n in (132, 148, 164, 180, 196, 212, 228)),
    ]
    assert found == expected
    positions = [[p.position for p in layers if p.block == k] for k in range(5)]
    assert positions[:2] == [[1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 4, 5, 6, 7]]
    assert positions[2:] == [[0, 1, 2, 3, 4, 6, 7], list(range(7)), list(range(7))]
    narrowed = [p for p in plan(IMAGENET) if not isinstance(p, LayerPlan)]
    found = [(p.block, p.position, p.base, p.widths) for p in narrowed]
    assert found == [
        (1, 3, 192, (2 * 96, 4 * 96, 4 * 96)),
        (2, 5, 240, (4 * 120, 4 * 120)),
        (3, 7, 264, (4 * 132,)),
    ]


def test_branches_share_the_growth_and_are_narrowed_by_their_input():
    first, second = plan(IMAGENET)[:2]
    assert first.scales == (
        ScalePlan(None, BranchPlan(16, 16)),
        ScalePlan(BranchPlan(16, 16), BranchPlan(32, 16)),
        ScalePlan(BranchPlan(64, 32), BranchPlan(128, 32)),  # 2 x 32, 4 x 32
        ScalePlan(BranchPlan(128, 32), BranchPlan(128, 32)),
    )
    assert second.scales == first.scales
    narrow = dataclasses.replace(IMAGENET, channels=8)  # 1x1 never wider than its input
    assert plan(narrow)[0].scales[2] == ScalePlan(
        BranchPlan(16, 32), BranchPlan(32, 32)
    )
    plain = dataclasses.replace(IMAGENET, bottleneck=False)
    assert plan(plain)[0].scales[1] == ScalePlan(BranchPlan(0, 16), BranchPlan(0, 16))


def test_where_a_map_is_dropped_its_successor_still_reads_it():
    dropping = next(p for p in plan(IMAGENET) if p.scales_in > len(p.scales))
    assert dropping.scales[0].down == BranchPlan(16, 16)
    after = plan(IMAGENET)[plan(IMAGENET).index(dropping) + 2]
    assert after.scales[0] == ScalePlan(None, BranchPlan(64, 32))


def test_min_pruning_drops_maps_last_and_narrows_at_the_thirds():
    steps = plan(dataclasses.replace(CIFAR, prune="min"))  # 12 layers
    layers = [p for p in steps if isinstance(p, LayerPlan)]
    assert [p.scales_in for p in layers] == [3] * 11 + [2]
    assert [len(p.scales) for p in layers] == [3] * 10 + [2, 1]
    bases = [16, 22, 28, 34, 20, 26, 32, 38, 22, 28, 34, 40]  # 40 -> 20, 44 -> 22
    assert [p.base for p in layers] == bases
    narrowed = [(p.block, p.position, p.widths) for p in steps if p not in layers]
    assert narrowed == [(0, 5, (20, 40, 80)), (2, 2, (22, 44, 88))]


def test_blocks_grow_in_linear_mode_and_no_reduction_means_no_transition():
    shape = dataclasses.replace(CIFAR, step_mode="linear", reduction=0.0)
    steps = plan(shape)
    assert all(isinstance(p, LayerPlan) for p in steps)
    assert [sum(p.block == k for p in steps) for k in range(5)] == [4, 3, 5, 7, 9]
    assert [p.base for p in steps] == list(range(16, 16 + 28 * 6, 6))


def test_transitions_floor_the_channels():
    odd = dataclasses.replace(
        CIFAR, channels=15, reduction=0.3
    )  # 45 -> 13.5, 37 -> 11.1
    narrowed = [p for p in plan(odd) if not isinstance(p, LayerPlan)]
    assert [(p.base, p.widths) for p in narrowed] == [(45, (26, 52)), (37, (44,))]


def test_a_single_scale_is_a_chain_of_dense_layers():
    one = {"scales": 1, "growth_factors": (1,), "bottleneck_factors": (4,)}
    steps = plan(dataclasses.replace(CIFAR, **one))
    assert len(steps) == 12
    assert all(p.scales == (ScalePlan(None, p.scales[0].normal),) for p in steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 0}, r"model\.options\.num_blocks=0 must be at least 1"),
        ({"base": 0}, "base=0 must be at least 1"),
        ({"step": 0}, "step=0 must be"),
        ({"scales": 0}, "scales=0 must be"),
        ({"channels": 0}, "channels=0 must be"),
        ({"growth": -1}, "growth=-1 must be"),
        ({"step_mode": "odd"}, r"step_mode='odd' is unknown; .*'even', 'linear'"),
        ({"prune": "mid"}, r"prune='mid' is unknown; choose from \('max', 'min'\)"),
        ({"growth_factors": (1, 2)}, r"growth_factors=\(1, 2\) has 2 .*scales=3"),
        ({"scales": 2}, r"growth_factors=\(1, 2, 4\) has 3 entries, .*scales=2; give"),
        ({"bottleneck_factors": (1,)}, r"bottleneck_factors=\(1,\) has 1 entries"),
        ({"growth_factors": (1, 0, 4)}, "must be whole numbers from 1"),
        ({"bottleneck_factors": (1, 2.0, 4)}, "must be whole numbers from 1"),
        (
            {"growth": 3, "growth_factors": (1, 1, 2)},
            r"growth=3 x growth_factors\[1\]=1 must be even",
        ),
        ({"reduction": 1.5}, r"reduction=1\.5 must be in \[0, 1\]"),
        ({"reduction": -0.1}, r"reduction=-0\.1 must be"),
        ({"reduction": 0.02}, r"reduction=0\.02 leaves no channel of the 46 .*layer 5"),
        ({"num_blocks": 1, "base": 2}, r"scales=3 needs as many layers, .*give 2"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        plan(dataclasses.replace(CIFAR, **changes))
