"""Augmentation and normalisation on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from eenet_jax.data import images
from eenet_jax.errors import UserError

MEAN = (0.5, 0.4, 0.3)


def _batch(size: int = 16, shape=(10, 12, 3)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (size, *shape), dtype=np.uint8)  # 0 marks padding


def test_crop_shifts_the_content_and_pads_with_zeros(key):
    x = _batch()
    y = np.asarray(images.augment(x, key=key, crop_padding=2))
    assert y.shape == x.shape and y.dtype == np.uint8
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    shifts = []
    for before, after in zip(padded, y, strict=True):
        matches = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if (before[i : i + 10, j : j + 12] == after).all()
        ]
        assert len(matches) == 1
        shifts += matches
    assert len(set(shifts)) > 5  # each sample has its own


def test_crop_uses_every_shift(key):
    x = jnp.asarray(np.full((2000, 1, 1, 1), 9, np.uint8))
    y = images.augment(x, key=key, crop_padding=1)
    # One pixel stays in sight for one of the 3 x 3 shifts.
    assert abs(float((y == 9).mean()) - 1 / 9) < 0.03


def test_flip_mirrors_about_half_and_twice_is_nothing(key):
    x = _batch(200)
    y = np.asarray(images.augment(x, key=key, flip=True))
    mirrored = (y == x[:, :, ::-1]).all((1, 2, 3))
    same = (y == x).all((1, 2, 3))
    assert (mirrored ^ same).all()
    assert 70 < mirrored.sum() < 130
    twice = images.augment(jnp.asarray(y), key=key, flip=True)
    np.testing.assert_array_equal(twice, x)


def test_cutout_blanks_one_clipped_square_that_normalises_to_zero(key):
    x = np.full((64, 10, 12, 3), 255, np.uint8)
    y = np.asarray(images.augment(x, key=key, cutout=4, mean=MEAN))
    blank = (y != 255).any(-1)  # [B, H, W]
    for square in blank:
        rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
        assert 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4
        assert square[np.ix_(rows, columns)].all()
        assert square.sum() == len(rows) * len(columns)
    assert len({square.tobytes() for square in blank}) > 20
    std = (0.25, 0.25, 0.25)
    x = np.asarray(images.normalise(jnp.asarray(y), MEAN, std))
    assert np.abs(x[blank]).max() <= 0.5 / 255 / 0.25 + 1e-6


def test_nothing_asked_changes_nothing(key):
    x = _batch()
    np.testing.assert_array_equal(images.augment(jnp.asarray(x), key=key), x)


AUGMENT = functools.partial(
    images.augment, crop_padding=3, flip=True, cutout=5, mean=MEAN
)


def test_key_determines_the_result(key):
    x = _batch()
    first, other = AUGMENT(x, key=key), AUGMENT(x, key=jax.random.key(1))
    np.testing.assert_array_equal(first, AUGMENT(x, key=key))
    assert (np.asarray(first) != np.asarray(other)).any()


def test_jit_equals_no_jit(key):
    x = _batch()
    np.testing.assert_array_equal(jax.jit(AUGMENT)(x, key=key), AUGMENT(x, key=key))


def test_result_does_not_depend_on_the_number_of_devices(key):
    x = _batch()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    key_everywhere = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    program = jax.jit(AUGMENT).lower(spread, key=key_everywhere).compile()
    assert "all-gather" not in program.as_text()  # no device sees another's images
    y = program(spread, key=key_everywhere)
    assert len(y.sharding.device_set) == len(jax.devices())
    np.testing.assert_array_equal(y, AUGMENT(x, key=key))


def test_normalise_uses_each_channel_s_statistics():
    x = _batch()
    std = (0.2, 0.25, 0.3)
    y = images.normalise(jnp.asarray(x), MEAN, std)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(
        y, (x / 255 - MEAN) / np.array(std), rtol=1e-4, atol=1e-5
    )


def test_normalise_repeats_one_channel():
    x = jnp.asarray(_batch(shape=(8, 8, 1)))
    y = images.normalise(x, (0.5,), (0.25,))
    assert y.shape == (16, 8, 8, 3)
    np.testing.assert_array_equal(y[..., 0], y[..., 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"cutout": -2}, "cutout=-2"),
        ({"cutout": 4}, "cutout=4 needs mean"),
        ({"cutout": 4, "mean": (0.5,)}, "one value for each of the 3 channels"),
    ],
)
def test_augment_refuses(key, options, message):
    with pytest.raises(UserError, match=message):
        images.augment(_batch(), key=key, **options)


@pytest.mark.parametrize(
    ("shape", "dtype", "mean", "message"),
    [
        ((2, 8, 8, 3), np.float32, MEAN, "must be uint8"),
        ((8, 8, 3), np.uint8, MEAN, r"shape \(8, 8, 3\)"),
        ((2, 8, 8, 2), np.uint8, (0.5, 0.5), "2 channels"),
        ((2, 8, 8, 1), np.uint8, MEAN, "each of the 1 channels"),
    ],
)
def test_normalise_refuses(shape, dtype, mean, message):
    with pytest.raises(UserError, match=message):
        images.normalise(jnp.zeros(shape, dtype), mean, mean)


# Rotation.


def test_a_turn_by_180_degrees_is_a_double_mirror(monkeypatch, key):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, **_: jnp.ones(shape))
    x = _batch(4)
    y = np.asarray(images.augment(x, key=key, rotation=180.0))
    np.testing.assert_array_equal(y, x[:, ::-1, ::-1])


def test_rotation_turns_each_image_by_its_own_angle_within_the_limit(key):
    # A bright ray from the centre to the right, 20 pixels long.
    x = np.zeros((64, 41, 41, 1), np.uint8)
    x[:, 20, 21:] = 255
    y = np.asarray(images.augment(x, key=key, rotation=20.0))[..., 0]
    angles = []
    for image in y:
        rows, columns = np.nonzero(image)
        angles.append(np.degrees(np.arctan2(rows.mean() - 20, columns.mean() - 20)))
    assert np.abs(angles).max() < 21 and np.min(angles) < -15 and np.max(angles) > 15
    assert len(np.unique(np.round(angles, 1))) > 30


def test_rotation_leaves_black_corners(key):
    x = np.full((8, 20, 20, 3), 255, np.uint8)
    y = np.asarray(images.augment(x, key=key, rotation=90.0))
    assert set(np.unique(y)) == {0, 255}
    assert (y[:, 8:12, 8:12] == 255).all()
