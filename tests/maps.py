"""A small network that answers with maps, and a data set for it."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from eenet_jax.backbones.staged import StagedModule


class _Conv(nn.Module):
    """A convolution and ReLU."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        x = nn.Conv(self.width, (3, 3), self.stride, use_bias=True)(x)
        return nn.relu(x)


class _Head(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return nn.Conv(self.num_classes, (1, 1))(x)

    def features(self, x: jax.Array) -> jax.Array:
        return x.mean((1, 2))


def network(num_classes: int, *, width: int = 8, dtype: Any = None) -> StagedModule:
    """Three exits with maps of half the image's side."""
    del dtype
    return StagedModule(
        _Conv(width, 2),
        tuple(_Conv(width) for _ in range(3)),
        tuple(_Head(num_classes) for _ in range(3)),
        output_kind="map",
        image_size=32,
    )


def arrays(seed: int, count: int, size: tuple[int, int] = (32, 40)) -> dict[str, Any]:
    """Images in three colours with noise, their label maps, and some void pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (count, size[0] // 8, size[1] // 8))
    labels = coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
    noise = rng.normal(
        0, rng.choice([10, 90], count)[:, None, None, None], (count, *size, 3)
    )
    images = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)
    labels[:, :2] = 255
    return {"images": images, "labels": labels}


def write_npz(path, seed: int = 0) -> None:
    """Writes a data set of 24, 10 and 13 images as data.name="npz" reads it."""
    parts = {
        f"{part}_{name}": array
        for i, (part, count) in enumerate((("train", 24), ("val", 10), ("test", 13)))
        for name, array in arrays(seed + i, count).items()
    }
    np.savez(path, **parts)


def config(make, path, **changes):
    """A run of a few steps on that file; ``make`` is the fixture small_config."""
    settings = {
        "model__name": "toy_map",
        "model__options": {},
        "model__exits": None,
        "data__name": "npz",
        "data__dir": str(path),
        "data__val_size": 0,
        "train__batch_size": 8,
        "train__epochs": 4,
        "optimizer__name": "adam",
        "optimizer__learning_rate": 0.02,
        "optimizer__weight_decay": 0.0,
        "loss__distill_weight": 0.0,
        "loss__exit_weights": (1.0, 1.0, 1.0),
        "eval__batch_size": 8,
    }
    return make(**{**settings, **changes})
