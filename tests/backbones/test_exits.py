"""Locations of early exits: what is possible, and what is refused."""

import pytest

from eenet_jax import backbones
from eenet_jax.backbones.exits import check_exits
from eenet_jax.errors import UserError


def test_exits_are_increasing_counts():
    assert check_exits([1, 3], 4) == (1, 3)
    assert check_exits((0,), 1) == (0,)
    assert check_exits((), 4) == ()


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        ((0,), r"model\.exits=\(0,\): no exit can be at 0; .*layer counts from 1 to 3"),
        ((1, 4), "no exit can be at 4"),
        ((True,), "no exit can be at True"),
        ((2, 2), r"model\.exits=\(2, 2\) do not increase"),
        ((3, 2), "do not increase"),
    ],
)
def test_exits_elsewhere_are_refused(exits, message):
    with pytest.raises(UserError, match=message):
        check_exits(exits, 4, first=1, what="layer")


@pytest.mark.parametrize("name", ["msdnet", "densenet121_4", "bert_4"])
def test_no_exit_comes_before_the_first_block_of_these(name):
    with pytest.raises(UserError, match=r"no exit can be at 0; .* from 1 to"):
        backbones.build(name, num_classes=3, exits=(0,))
