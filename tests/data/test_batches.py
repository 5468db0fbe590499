"""Batches: every sample once, the last partial one exact."""

import numpy as np
import pytest

from eenet_jax.data import batches
from eenet_jax.errors import UserError


def test_epoch_has_no_sample_twice_and_drops_the_rest():
    rows = batches.epoch_indices(seed=0, epoch=0, num_samples=103, batch_size=10)
    assert rows.shape == (10, 10)
    assert rows.dtype == np.int32
    assert len(np.unique(rows)) == 100
    assert rows.min() >= 0 and rows.max() <= 102


def test_epoch_is_fixed_by_seed_and_epoch():
    def draw(seed, epoch):
        return batches.epoch_indices(seed, epoch, num_samples=64, batch_size=16)

    np.testing.assert_array_equal(draw(3, 5), draw(3, 5))
    assert (draw(3, 5) != draw(3, 6)).any()
    assert (draw(3, 5) != draw(4, 5)).any()
    assert (draw(3, 5) != draw(5, 3)).any()


@pytest.mark.parametrize("batch_size", [0, 65])
def test_epoch_refuses_a_batch_that_cannot_be_filled(batch_size):
    with pytest.raises(UserError, match=f"train.batch_size={batch_size} .* 64"):
        batches.epoch_indices(0, 0, num_samples=64, batch_size=batch_size)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "steps"),
    [(1, 1, 1), (12, 4, 3), (13, 4, 4), (15, 4, 4), (3, 8, 1), (297, 128, 3)],
)
def test_eval_batches_cover_each_sample_exactly_once(num_samples, batch_size, steps):
    indices, mask = batches.eval_batches(num_samples, batch_size)
    assert indices.shape == mask.shape == (steps, batch_size)
    assert indices.dtype == np.int32 and mask.dtype == bool
    assert mask.sum() == num_samples
    np.testing.assert_array_equal(indices[mask], np.arange(num_samples))
    assert indices.min() >= 0 and indices.max() < num_samples  # padding is readable


@pytest.mark.parametrize(("num_samples", "batch_size"), [(0, 4), (4, 0)])
def test_eval_batches_refuse_nothing(num_samples, batch_size):
    with pytest.raises(UserError, match="at least 1"):
        batches.eval_batches(num_samples, batch_size)


# Groups.


def test_a_grouped_epoch_has_every_full_batch_of_every_group_once():
    sizes = (23, 4, 40)
    groups, rows = batches.grouped_epoch_indices(1, 0, sizes, 5)
    assert rows.shape == (4 + 0 + 8, 5) and rows.dtype == np.int32
    assert np.bincount(groups, minlength=3).tolist() == [4, 0, 8]
    for group, size in enumerate(sizes):
        members = rows[groups == group].ravel()
        assert len(np.unique(members)) == len(members)
        assert (members < size).all()


def test_a_grouped_epoch_is_fixed_by_seed_and_epoch_and_mixes_the_groups():
    draw = [
        batches.grouped_epoch_indices(s, e, (50, 50), 5)
        for s, e in ((0, 1), (0, 1), (0, 2), (1, 1))
    ]
    for part in range(2):
        np.testing.assert_array_equal(draw[0][part], draw[1][part])
    assert (draw[0][1] != draw[2][1]).any() and (draw[0][1] != draw[3][1]).any()
    assert (np.diff(draw[0][0]) != 0).sum() > 4  # not one group after the other
