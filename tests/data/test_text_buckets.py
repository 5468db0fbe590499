"""Length buckets: the best choice there is, against trying every choice."""

import itertools

import numpy as np
import pytest

from eenet_jax.data import text_buckets
from eenet_jax.errors import UserError


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_boundaries_waste_least(count, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(0.05, 200).clip(2, 70)
    chosen = text_buckets.default_boundaries(lengths, count)
    assert all(b % 8 == 0 for b in chosen) and len(chosen) <= count
    last = -(-int(lengths.max()) // 8) * 8
    others = itertools.chain.from_iterable(
        itertools.combinations(range(8, last, 8), n) for n in range(count)
    )
    least = min(text_buckets.padding_waste(lengths, (*b, last)) for b in others)
    assert chosen[-1] == last
    assert text_buckets.padding_waste(lengths, chosen) == pytest.approx(least)


def test_worked_case():
    lengths = np.array([3, 3, 3, 9, 16, 30])
    assert text_buckets.default_boundaries(lengths, 1) == (32,)
    # 5 * 16 + 32 tokens; (8, 32) would be 3 * 8 + 3 * 32.
    assert text_buckets.default_boundaries(lengths, 2) == (16, 32)
    assert text_buckets.default_boundaries(lengths, 3) == (8, 16, 32)
    assert text_buckets.default_boundaries(lengths, 9) == (8, 16, 32)
    assert text_buckets.default_boundaries(lengths, 9, multiple=1) == (3, 9, 16, 30)
    assert text_buckets.bucket_of(lengths, (8, 16, 32)).tolist() == [0, 0, 0, 1, 1, 2]
    assert text_buckets.bucket_of(lengths, (8, 16, 32)).dtype == np.int32
    assert text_buckets.padding_waste(lengths, (8, 16, 32)) == pytest.approx(24 / 88)
    assert text_buckets.padding_waste(lengths, (3, 9, 16, 30)) == 0


def test_no_boundary_passes_the_longest_text_allowed():
    lengths = np.array([3, 9, 30, 28])
    assert text_buckets.default_boundaries(lengths, 2, max_length=30) == (16, 30)
    assert text_buckets.default_boundaries(lengths, 2, max_length=40) == (16, 32)
    with pytest.raises(UserError, match="30 tokens, above max_length=29; give the max"):
        text_buckets.default_boundaries(lengths, 2, max_length=29)


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ((), r"boundaries=\(\) must increase, from 1 or more"),
        ((8, 8), r"boundaries=\(8, 8\) must increase"),
        ((0, 8), r"boundaries=\(0, 8\) must increase"),
        ((4, 8), r"text 1 has 9 .* boundaries=\(4, 8\) is 8; .*data.max_length=8"),
    ],
)
def test_wrong_boundaries_are_refused(boundaries, message):
    for function in (text_buckets.bucket_of, text_buckets.padding_waste):
        with pytest.raises(UserError, match=message):
            function(np.array([3, 9]), boundaries)


@pytest.mark.parametrize("lengths", [[], [3, 0], [[3]]])
def test_wrong_lengths_are_refused(lengths):
    lengths = np.array(lengths, int)
    with pytest.raises(UserError, match=r"must be \[N\], of one text or more, each"):
        text_buckets.default_boundaries(lengths, 2)
    with pytest.raises(UserError, match=r"must be \[N\], of one text or more, each"):
        text_buckets.bucket_of(lengths, (8,))


@pytest.mark.parametrize(("count", "multiple"), [(0, 8), (2, 0)])
def test_wrong_numbers_are_refused(count, multiple):
    with pytest.raises(UserError, match=f"count={count} .*multiple={multiple}: both"):
        text_buckets.default_boundaries(np.array([3]), count, multiple)
