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
