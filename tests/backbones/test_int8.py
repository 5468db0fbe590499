"""Convolutions in int8: whole numbers by hand, what is folded, how near it stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eenet_jax import backbones
from eenet_jax.backbones import cpu_layers, from_torch, int8
from eenet_jax.errors import UserError


def _network(name: str, batch: int = 4, **options):
    """A network whose BatchNorms have seen something, and inputs."""
    backbone = backbones.build(name, num_classes=4, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(backbone.example(batch).shape, np.float32)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        by_name = {
            "var": np.exp(0.3 * noise),
            "scale": 1 + 0.2 * noise,
            "kernel": noise / np.sqrt(max(1, np.prod(leaf.shape[:-1]))),
        }
        return by_name.get(path[-1].key, 0.1 * noise)

    shapes = jax.eval_shape(backbone.init, jax.random.key(0), x)
    return backbone, jax.tree_util.tree_map_with_path(draw, shapes), x


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_by_hand(size, stride):
    rng = np.random.default_rng(size + stride)
    kernel = rng.integers(-127, 128, (size, size, 5, 4)).astype(np.int8)
    params = {
        "kernel": jnp.array(kernel),
        "scale": np.array([0.5, 0.25, 2.0, 1.0], np.float32),
        "bias": np.array([1.0, -1.0, 0.0, 3.0], np.float32),
        "input_scale": np.float32(0.5),
    }
    x = rng.uniform(-80, 80, (2, 6, 6, 5)).astype(np.float32)  # beyond 63.5: clipped
    levels = np.clip(np.round(x / 0.5), -127, 127).astype(np.int8)
    assert (abs(levels) == 127).any()
    sums = cpu_layers.plain_convolve(levels, kernel, stride, jnp.int32)
    assert sums.dtype == jnp.int32
    expected = np.asarray(sums, np.float32) * params["scale"] + params["bias"]
    found = int8.convolve_int8(x, params, stride)
    np.testing.assert_array_equal(found, expected)  # sums of floats are exact too


def test_a_norm_is_folded_only_where_nothing_else_reads_the_convolution():
    backbone, variables, x = _network("densenet_bc_40_12")
    found = {"/".join(p): norm for p, norm in _foldable(backbone, variables, x)}
    assert len(found) == 39
    assert found["stem/conv"] is None  # the first layer is put beside it
    layer = "stages_0/blocks_0/layer0"
    assert found[f"{layer}/conv1"] == ((*layer.split("/"), "bn2"), 1e-5)
    assert found[f"{layer}/conv2"] is None
    backbone, variables, x = _network("resnet8_2ee")
    found = {"/".join(p): norm for p, norm in _foldable(backbone, variables, x)}
    assert [name for name, norm in found.items() if norm is None] == [
        f"stages_1/blocks_{i}/shortcut_conv" for i in (1, 2)
    ]


def _foldable(backbone, variables, x):
    return int8.foldable(backbone, variables, x).items()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet", {"depth": 8, "shortcut": "projection"}),
        ("alexnet", {}),
    ],
)
def test_a_network_stays_near(name, options):
    backbone, variables, x = _network(name, **options)
    other, changed = int8.quantise(backbone, variables, [x[:2], x[2:]])
    assert other.dtype == "int8" and other.num_exits == backbone.num_exits
    exact = jax.jit(backbone.apply)(variables, x)[0]
    near = jax.jit(other.apply)(changed, x)[0]
    error = jnp.sqrt(jnp.square(near - exact).mean() / jnp.square(exact).mean())
    assert 0 < error < 0.05

    carry = other.stem(changed, x)
    for k in range(other.num_exits):
        carry = other.stage(k, changed, carry)
        head = other.head(k, changed, carry)
        np.testing.assert_allclose(head, near[k], rtol=1e-3, atol=1e-3)
    before, after = backbone.part_params(variables), other.part_params(changed)
    jax.tree.map(np.testing.assert_array_equal, before["heads"], after["heads"])
    before, after = (jax.tree.leaves(parts["stages"]) for parts in (before, after))
    kernels = [leaf for leaf in after if leaf.ndim == 4]
    assert kernels and all(leaf.dtype == jnp.int8 for leaf in kernels)
    assert sum(a.nbytes for a in after) < 0.4 * sum(a.nbytes for a in before)


def test_rare_large_inputs_are_clipped_and_dead_channels_stay_finite():
    backbone, variables, x = _network("cifar_resnet", batch=64, depth=8, width=2)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    kernel[..., 0] = 0.0
    x = np.random.default_rng(1).uniform(-1, 1, x.shape).astype(np.float32)
    x[0, 0, 0, 0] = 2.0  # one of 196,608: worth half of the levels to nobody
    _, changed = int8.quantise(backbone, variables, [x])
    stem = changed["params"]["stem"]["conv"]
    assert 1 <= stem["input_scale"] * int8.LEVELS < 1.3
    assert not stem["kernel"][..., 0].any()
    assert jnp.isfinite(stem["bias"]).all() and jnp.isfinite(stem["scale"]).all()


def test_networks_without_convolutions_are_refused():
    backbone = backbones.build("minilm", num_classes=2)
    x = backbone.example()
    variables = jax.eval_shape(backbone.init, jax.random.key(0), x)
    with pytest.raises(UserError, match="minilm has no convolutions to run in int8"):
        int8.quantise(backbone, variables, [x])


@pytest.mark.slow
def test_a_pretrained_resnet56_loses_at_most_half_a_point(shared):
    folder = shared / "data" / "cifar10"

    def images(part):
        image = Image.open(folder / f"cifar10_{part}_exact.webp").convert("RGB")
        rows = np.asarray(image).reshape(-1, 32, 32, 32, 3).swapaxes(1, 2)
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return np.float32((rows.reshape(-1, 32, 32, 3) / 255 - mean) / std)

    labels = np.load(folder / "cifar10_exact_index.npz")["test_labels"]
    file = shared / "data" / "weights" / "cifar10_resnet56-4bfd9763.npz"
    state_dict = from_torch.load_state_dict(file)
    variables = from_torch.convert("resnet56", state_dict, exits=())
    backbone = backbones.build("resnet56", num_classes=10, exits=())
    quick, changed = int8.quantise(backbone, variables, [images("train")[:256]])
    x, right = images("test")[: len(labels)], []
    for network, weights in ((backbone, variables), (quick, changed)):
        run = jax.jit(lambda v, x, n=network: n.apply(v, x)[0][-1].argmax(-1))
        answers = [run(weights, part) for part in np.split(x, 9)]
        right.append((np.concatenate(answers) == labels).sum())
    assert right[0] - right[1] <= 0.005 * len(labels)
