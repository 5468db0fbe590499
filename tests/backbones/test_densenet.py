"""DenseNets: published counts, parity with PyTorch, maps, exits, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eenet_jax import costs
from eenet_jax.backbones import densenet
from eenet_jax.backbones.staged import Backbone
from eenet_jax.backbones.torch_names import densenet as names
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = densenet.DenseSpec((2, 1, 3, 1), growth=4, new_first=True, stem="cifar")


def _wrap(module) -> Backbone:
    classes = module.heads[-1].num_classes
    return Backbone("densenet", len(module.stages), classes, "float32", module)


def _small(exits=(1, 2, 3), head="conv", reduction=4) -> Backbone:
    """Builds a DenseNet of four blocks with 2, 1, 3 and 1 layers and 5 classes."""
    args = (SMALL, 5, exits, head, reduction, jnp.float32)
    return _wrap(densenet.build_staged(*args))


def _shapes(backbone: Backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


@functools.cache
def _eenet():
    """EENet's network for CIFAR-100 and the shapes of its variables."""
    backbone = _wrap(densenet.densenet121_4(100))
    return backbone, _shapes(backbone)


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _maps(backbone: Backbone, height: int, width: int) -> list[tuple[int, ...]]:
    """Returns [H, W, D] of the stem's and of every stage's output."""

    def run(module, x):
        carries = [module.run_stem(x)]
        for k in range(backbone.num_exits):
            carries.append(module.run_stage(k, carries[-1]))
        return carries

    def init(x):
        return backbone.module.init_with_output(jax.random.key(0), x, method=run)

    x = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    return [carry.shape[1:] for carry in jax.eval_shape(init, x)[0]]


# Published counts.


@pytest.mark.slow
def test_densenet121_4_has_the_published_multiply_adds():
    backbone, shapes = _eenet()
    counted = costs.exit_mflops(backbone, shapes, backbone.example())
    macs, heads = counted.costs / 2, counted.head_costs[:3] / 2
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=5e-4)
    close(macs, [55.150, 94.597, 126.526, 131.356])
    close(heads, [1.992, 1.993, 1.995])
    # The backbone alone, whose last linear layer is its own.
    close(macs - np.cumsum([*heads, 0]), [53.158, 90.612, 120.545, 125.376])


def test_densenet121_4_has_the_published_parameters_up_to_each_exit():
    counts = costs.exit_mparams(*_eenet()).costs * 1e6
    assert np.round(counts).tolist() == [62_476, 246_800, 858_420, 1_207_768]


def test_densenet121_4_is_a_plain_densenet_with_heads():
    early_heads = _eenet()[0].part_params(_eenet()[1])["heads"][:3]
    assert _size(_eenet()[1]["params"]) - _size(early_heads) == 1_035_268


def test_densenet121_without_early_exits_has_torchvisions_parameters():
    shapes = _shapes(_wrap(densenet.densenet121(1000, exits=())))
    assert _size(shapes["params"]) == 7_978_856


# Parity with PyTorch.


def _from_torch(backbone: Backbone, shapes, form, state_dict):
    naming, taken = form.naming(backbone.module), []

    def load(path, leaf):
        key = naming(tuple(entry.key for entry in path[1:]))
        if key is None:
            return jnp.zeros(leaf.shape, leaf.dtype)
        taken.append(key)
        value = state_dict[key]
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
        value = value if axes is None else value.transpose(axes)
        assert value.shape == leaf.shape, key
        return jnp.asarray(value)

    variables = jax.tree_util.tree_map_with_path(load, shapes)
    assert sorted(taken) == sorted(state_dict)  # each once, none left over
    return variables


@pytest.mark.slow
def test_densenet121_4_agrees_with_the_published_model(shared):
    folder = shared / "fixtures" / "parity" / "densenet121_4"
    with np.load(folder / "state_dict.npz") as file:
        state_dict = dict(file)
    with np.load(folder / "golden.npz") as file:
        golden = dict(file)
    backbone, shapes = _eenet()
    variables = _from_torch(backbone, shapes, names.EENET, state_dict)
    x = golden["input"].transpose(0, 2, 3, 1)
    logits = jit(lambda v, x: backbone.apply(v, x)[0])(variables, x)
    for k in range(4):
        expected = golden[f"logits_{k}"]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(logits[k], expected, rtol=0, atol=atol)


def _cifar10_exact(shared) -> tuple[np.ndarray, np.ndarray]:
    """Reads the 1,017 unchanged test images, uint8 NHWC, and their labels."""
    with np.load(shared / "data" / "cifar10" / "cifar10_exact_index.npz") as file:
        labels = file["test_labels"]
    with Image.open(shared / "data" / "cifar10" / "cifar10_test_exact.webp") as image:
        mosaic = np.asarray(image.convert("RGB"))
    rows = mosaic.reshape(len(mosaic) // 32, 32, 32, 32, 3).transpose(0, 2, 1, 3, 4)
    return rows.reshape(-1, 32, 32, 3)[: len(labels)], labels


def _count_right(shared, images: np.ndarray, labels: np.ndarray) -> int:
    """Counts what the published DenseNet-BC gets right, 113 images at a time."""
    weights = shared / "data" / "weights" / "cifar10_densenet_bc_40_12.npz"
    with np.load(weights) as file:
        state_dict = {k: file[k] for k in file if "num_batches_tracked" not in k}
    backbone = _wrap(densenet.densenet_bc_40_12(10, exits=(1,)))
    shapes = _shapes(backbone)
    variables = _from_torch(backbone, shapes, names.DENSENET_BC, state_dict)
    mean = np.array([[[[125.3, 123.0, 113.9]]]], np.float32)
    std = np.array([[[[63.0, 62.1, 66.7]]]], np.float32)

    @jit
    def predict(variables, x):
        carry = backbone.stage(0, variables, backbone.stem(variables, x))
        return backbone.head(1, variables, backbone.stage(1, variables, carry))

    batches = np.split((images - mean) / std, len(images) // 113)
    logits = np.concatenate([predict(variables, batch) for batch in batches])
    return (logits.argmax(-1) == labels).sum()


@pytest.mark.slow
def test_the_published_densenet_bc_is_right_on_950_of_1017_images(shared):
    right = _count_right(shared, *_cifar10_exact(shared))
    assert abs(right - 950) <= 1  # 93.41 %


# Maps, exits and options.


def test_maps_of_the_cifar_form():
    sides, channels = [32, 16, 8, 4, 4], [24, 48, 96, 192, 384]
    expected = [(s, s, c) for s, c in zip(sides, channels, strict=True)]
    assert _maps(_eenet()[0], 32, 32) == expected
    expected = [(32, 32, 24), (16, 16, 48), (8, 8, 60), (8, 8, 132)]
    assert _maps(_wrap(densenet.densenet_bc_40_12(10)), 32, 32) == expected


@pytest.mark.parametrize(
    ("builder", "size", "sides"),
    [
        (densenet.densenet121, (224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        # The stem gives 101 then 51, and 100 then 50; then halves rounded down.
        (densenet.densenet121_4, (201, 200), [(51, 50), (25, 25), (12, 12), (6, 6)]),
    ],
)
def test_maps_of_the_imagenet_form(builder, size, sides):
    backbone = _wrap(builder(1000, growth=32, stem="imagenet"))
    assert backbone.example().shape == (1, 224, 224, 3)
    expected = [(*side, 64 * 2**k) for k, side in enumerate([*sides, sides[-1]])]
    assert _maps(backbone, *size) == expected


def test_torchvisions_network_may_have_a_stem_for_small_images():
    backbone = _wrap(densenet.densenet121(10, exits=(), stem="cifar"))
    assert backbone.example().shape == (1, 32, 32, 3)
    assert _maps(backbone, 32, 32) == [(32, 32, 64), (4, 4, 1024)]


def test_both_networks_differ_in_the_order_of_channels():
    ours, theirs = densenet.densenet121_4(10), densenet.densenet121(10)
    assert ours.stages[0].blocks[0].new_first
    assert not theirs.stages[0].blocks[0].new_first
    assert not densenet.densenet_bc_40_12(10).stages[0].blocks[0].new_first


@pytest.mark.parametrize(
    ("exits", "blocks"),
    [((), [4]), ((2,), [2, 2]), ((3,), [3, 1]), ((1, 3), [1, 2, 1])],
)
def test_exits_cut_between_dense_blocks(exits, blocks):
    backbone = _small(exits)
    shapes = _shapes(backbone)
    stages = backbone.part_params(shapes)["stages"]
    assert [len(stage) for stage in stages] == blocks
    found = [block for stage in stages for block in stage.values()]
    # Only the last block is without a transition.
    assert [len(block) for block in found] == [2 + 1, 1 + 1, 3 + 1, 1]
    assert ["transition" in block for block in found] == [True, True, True, False]
    logits, _ = jax.eval_shape(backbone.apply, shapes, backbone.example(2))
    assert logits.shape == (len(blocks), 2, 5)
    after = {1: (16, 16, 8), 2: (8, 8, 6), 3: (4, 4, 9)}
    assert _maps(backbone, 32, 32)[1:] == [*map(after.get, exits), (4, 4, 13)]


def test_head_options_reach_the_early_heads():
    shapes = _shapes(_small(reduction=2))["params"]
    assert shapes["heads_0"]["conv0"]["kernel"].shape == (3, 3, 8, 4)
    shapes = _shapes(_small(head="linear"))["params"]
    assert set(shapes["heads_0"]) == {"linear"}
    assert set(shapes["heads_3"]) == {"bn", "linear"}


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exits": (0,)}, r"no exit can be at 0; .* dense block counts from 1 to 3"),
        ({"exits": (2, 4)}, r"model\.exits=\(2, 4\): no exit can be at 4"),
        ({"exits": (1.0,)}, r"no exit can be at 1\.0"),
        ({"exits": (2, 1)}, r"model\.exits=\(2, 1\) do not increase; choose"),
        ({"exits": (2, 2)}, r"do not increase"),
        ({"growth": 0}, r"model\.options\.growth=0 must be at least 1"),
        ({"stem": "tiny"}, r"stem='tiny' is unknown; .*'cifar', 'imagenet'"),
        ({"head": "cnv"}, r"head='cnv' is unknown"),
        ({"reduction": 0}, r"reduction=0 must be at least 1"),
    ],
)
@pytest.mark.parametrize("builder", [densenet.densenet121_4, densenet.densenet121])
def test_what_cannot_be_built_is_refused(builder, options, message):
    with pytest.raises(UserError, match=message):
        builder(10, **options)


def test_densenet_bc_has_two_places_for_exits():
    with pytest.raises(UserError, match="no exit can be at 3; .* from 1 to 2 "):
        densenet.densenet_bc_40_12(10, exits=(3,))


def test_images_too_small_to_be_halved_are_refused():
    assert _maps(_small(), 8, 15)[-1] == (1, 1, 13)
    with pytest.raises(UserError, match=r"a map of 1 x 3 pixels .*stem='cifar'"):
        _maps(_small(), 7, 15)
