"""MSDNet35-5 against what is published: counts, maps, PyTorch's names, logits."""

import functools
import json
import math
import re
import zlib

import jax
import numpy as np
import pytest

from eenet_jax import costs
from eenet_jax.backbones import msdnet
from eenet_jax.backbones.staged import Backbone
from eenet_jax.backbones.torch_names.msdnet import MSDNET

# Compiling costs most of a test's time, and this runs once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _backbone(builder, num_classes=5, **options) -> Backbone:
    module = builder(num_classes, **options)
    return Backbone("msdnet", len(module.stages), num_classes, "float32", module)


def _walk(backbone):
    """Shapes of the variables, and of the carries between stages."""

    def run(module, x):
        carries = [module.run_stem(x)]
        for k in range(backbone.num_exits):
            carries.append(module.run_stage(k, carries[-1]))
            module.run_head(k, carries[-1])
        return carries

    init = functools.partial(backbone.module.init_with_output, method=run)
    carries, variables = jax.eval_shape(init, jax.random.key(0), backbone.example())
    return variables, carries


@functools.cache
def _msdnet35_5():
    backbone = _backbone(msdnet.msdnet35_5, 1000)
    return backbone, *_walk(backbone)


def _num_params(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_msdnet35_5_has_the_published_parameters():
    backbone, shapes, _ = _msdnet35_5()
    assert backbone.example().shape == (1, 224, 224, 3)
    assert (
        _num_params(shapes["params"]) == 62_330_301 - 15_829
    )  # a switcher that nothing calls
    heads = backbone.part_params(shapes)["heads"]
    assert _num_params(heads) == 45_509_512


@pytest.mark.slow
def test_msdnet35_5_has_the_published_multiply_adds():
    backbone, shapes, _ = _msdnet35_5()
    found = costs.exit_mflops(backbone, shapes, backbone.example())
    macs, heads = found.costs / 2, found.head_costs / 2
    expected = [612.031, 1430.810, 2276.388, 2959.942, 3246.181]
    np.testing.assert_allclose(macs, expected, rtol=0, atol=6e-4)
    expected = [60.296, 74.368, 67.148, 50.709, 172.440]
    np.testing.assert_allclose(heads, expected, rtol=0, atol=6e-4)
    expected = [551.735, 1296.146, 2074.577, 2707.422, 2821.221]
    np.testing.assert_allclose(macs - np.cumsum(heads), expected, rtol=0, atol=6e-4)


@pytest.mark.slow
def test_the_maps_of_msdnet35_5_are_the_published_ones():
    _, _, carries = _msdnet35_5()
    first = [(56, 56, 32), (28, 28, 64), (14, 14, 128), (7, 7, 128)]
    assert [m.shape[1:] for m in carries[0]] == first
    coarsest = [carry[-1].shape for carry in carries[1:]]
    assert coarsest == [(1, 7, 7, width) for width in (576, 640, 608, 528, 976)]
    assert [len(carry) for carry in carries] == [4, 4, 3, 2, 1, 1]


# PyTorch's names and golden logits.


def _names(backbone, shapes) -> dict[str, tuple[int, ...]]:
    """Shapes by PyTorch's keys, in PyTorch's order of axes."""
    naming, found = MSDNET.naming(backbone.module), {}

    def add(path, leaf):
        key = naming(tuple(entry.key for entry in path[1:]))
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(leaf.shape), (0,))
        assert key not in found
        found[key] = tuple(leaf.shape[i] for i in order)

    jax.tree_util.tree_map_with_path(add, shapes)
    return found


def _recipe(folder) -> dict[str, tuple[tuple[int, ...], str]]:
    tensors = json.loads((folder / "recipe.json").read_text())["tensors"]
    return {name: (tuple(shape), kind) for name, shape, kind in tensors}


def _is_ignored(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in MSDNET.ignored)


def test_names_and_shapes_are_those_of_the_published_state_dict(shared):
    recipe = _recipe(shared / "fixtures" / "parity" / "msdnet35_5")
    found = _names(*_msdnet35_5()[:2])
    left = [name for name in recipe if name not in found]
    assert {name.split(".")[0] for name in left} == {"switcher"}
    assert all(map(_is_ignored, left))
    assert found == {name: recipe[name][0] for name in found}
    classes = {name for name in found if re.fullmatch(MSDNET.classes_key, name)}
    assert len(classes) == 10 and all(found[name][0] == 1000 for name in classes)


def _tiny_names(**options) -> dict[str, tuple[int, ...]]:
    shape = {"num_blocks": 3, "base": 3, "step": 1, "channels": 4, "growth": 2}
    backbone = _backbone(msdnet.cifar_msdnet, **shape, **options)
    return _names(backbone, _walk(backbone)[0])


def test_a_network_with_fewer_exits_is_named_within_the_full_one():
    full, some = _tiny_names(), _tiny_names(exits=(2,))
    assert some.items() <= full.items()
    left = full.keys() - some.keys()
    assert left and all(name.startswith("classifier.0.") for name in left)
    assert all(map(_is_ignored, left))


def test_names_of_a_stem_and_of_layers_without_bottleneck():
    names = _tiny_names(bottleneck=False)
    assert names["blocks.0.0.layers.0.net.0.weight"] == (4, 3, 3, 3)
    assert names["blocks.0.0.layers.2.net.1.running_var"] == (16,)
    assert names["blocks.0.1.layers.1.conv_down.net.0.weight"] == (2, 4, 3, 3)
    assert names["blocks.0.1.layers.0.conv_normal.net.1.weight"] == (2,)
    assert names["blocks.0.4.m.1.net.0.weight"] == (20, 40, 1, 1)
    assert not any(".net.3." in name for name in names)


def _tensor(name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Rebuilds a tensor of the fixture by the recipe in its README."""
    n = np.random.default_rng([0, zlib.crc32(name.encode())]).standard_normal(shape)
    leaf = name.rpartition(".")[2]
    if kind == "conv":
        n *= math.sqrt(2 / math.prod(shape[1:]))
    elif kind == "linear":
        n *= math.sqrt(1 / shape[1])
    elif kind == "bias":
        n *= 0.05
    elif leaf == "running_var":
        n = np.exp(0.3 * n)
    else:
        n = {"running_mean": 0.2 * n, "weight": 1 + 0.1 * n, "bias": 0.1 * n}[leaf]
    return n.astype(np.float32)


@pytest.mark.slow
def test_msdnet35_5_agrees_with_the_published_model(shared):
    folder = shared / "fixtures" / "parity" / "msdnet35_5"
    recipe = _recipe(folder)
    backbone, shapes, _ = _msdnet35_5()
    naming = MSDNET.naming(backbone.module)

    def load(path, leaf):
        name = naming(tuple(entry.key for entry in path[1:]))
        value = _tensor(name, *recipe[name])
        return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim))

    variables = jax.tree_util.tree_map_with_path(load, shapes)
    with np.load(folder / "golden.npz") as file:
        golden = dict(file)

    apply = jit(lambda v, x: backbone.apply(v, x)[0])
    logits = apply(variables, golden["input"].transpose(0, 2, 3, 1))
    for k in range(5):
        expected = golden[f"logits_{k}"]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(logits[k], expected, rtol=0, atol=atol)
