"""HRNets for tests: small ones, and the weights that the golden logits were made with.

tests/goldens/hrnet_w18s.npz holds a part of ../shared/fixtures/adpc_hrnet, computed by
the authors' code (liuzhuang13/anytime, MIT licence): the first image, every second row
and column of the logits, and the masks.
"""

import functools
import math
import pathlib
import zlib
from unittest import mock

import jax
import numpy as np

from eenet_jax import backbones
from eenet_jax.backbones import from_torch, hrnet

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
GOLDEN = pathlib.Path(__file__).parent.parent / "goldens" / "hrnet_w18s.npz"
SMALL = {"width": 4, "stem_width": 4, "head_width": 5}
# Gains of the golden weights' convolutions; 2 where none is said.
GAINS = {"transition": 0.4, "stage": 0.4, "exit2": 3.0, "exit3": 1.5, "last": 1.5}


@functools.cache
def small(**options):
    """Builds a narrow network, the same one for the same options."""
    return backbones.build("hrnet_w18s", num_classes=3, **{**SMALL, **options})


@functools.cache
def tiny(**options):
    """Builds a narrow network of as few blocks as there can be; compiling is dear."""
    size = hrnet.Size(1, ((1, 1), (1, 1), (1, 1)), 18, 64)
    with mock.patch.dict(hrnet.SIZES, w18s=size):
        return backbones.build("hrnet_w18s", num_classes=3, **{**SMALL, **options})


@functools.cache
def shapes_of(backbone):
    """Returns the shapes of a network's variables."""
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def lively(backbone, seed: int = 0):
    """Draws variables that no layer lets vanish."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if name == "kernel":
            noise *= math.sqrt(2 / math.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            noise = np.exp(0.2 * noise)
        elif name == "lambda":
            noise = np.array(1.0)
        else:
            noise *= 0.1
        return noise.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(backbone))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((*shape, 3)).astype(np.float32)


def torch_shapes(backbone, form: int = 0) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a checkpoint of one of the formats, by PyTorch's keys."""
    naming = from_torch.FORMATS[backbone.name][form].naming(backbone.module)
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(backbone)):
        key = naming(tuple(entry.key for entry in path[1:]))
        if key is not None:
            assert key not in found
            order = (3, 2, 0, 1) if leaf.ndim == 4 else range(leaf.ndim)
            found[key] = tuple(leaf.shape[i] for i in order)
    return found


def kind_of(key: str, shape: tuple[int, ...]) -> str:
    """Returns the kind that the recipe gives a tensor of the goldens' network."""
    if len(shape) == 4:
        gains = [gain for start, gain in GAINS.items() if key.startswith(start)]
        return f"conv:{(gains or [2.0])[0]}"
    parts = key.split(".")  # of a head's convolutions
    of_conv = parts[0].startswith("exit") and int(parts[1]) % 4 == 1
    of_conv |= parts[0] == "last_layer" and parts[1] in "03"
    return "bias" if of_conv else "bn"


def golden_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a tensor by the recipe of ../shared/fixtures/parity/README.md, seed 0."""
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    n = rng.standard_normal(shape)
    kind, _, gain = kind_of(key, shape).partition(":")
    if kind == "conv":
        n *= math.sqrt(float(gain) / math.prod(shape[1:]))
    elif kind == "bias":
        n *= 0.05
    else:
        by_name = {"running_mean": 0.2 * n, "running_var": np.exp(0.3 * n)}
        by_name |= {"weight": 1 + 0.1 * n, "bias": 0.1 * n}
        n = by_name[key.rpartition(".")[2]]
    return n.astype(np.float32)


@functools.cache
def golden_tensors() -> dict[str, np.ndarray]:
    shapes = torch_shapes(backbones.build("hrnet_w18s", num_classes=19))
    return {key: golden_tensor(key, shape) for key, shape in shapes.items()}


def assert_golden(logits: jax.Array, expected: np.ndarray) -> None:
    """Compares one exit's logits with the rows and columns that are kept of them."""
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(logits[:, ::2, ::2], expected, rtol=0, atol=limit)
