"""ResNet checkpoints by name: published logits, keys where exits cut, accuracies."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eenet_jax.backbones import resnet, resnet8, resnet_imagenet
from eenet_jax.backbones.torch_names.resnet import (
    AKAMASTER,
    EENET,
    RESNET8,
    TORCHVISION,
)

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
COUNTERS = r".*\.num_batches_tracked"


def _shapes(module):
    x = jnp.zeros((1, module.image_size, module.image_size, 3))
    return jax.eval_shape(module.init, jax.random.key(0), x)


def _keys(module, form) -> dict[str, tuple[int, ...]]:
    """Returns PyTorch's key and our shape of every leaf that has a key."""
    naming = form.naming(module)
    leaves = jax.tree_util.tree_leaves_with_path(_shapes(module))
    named = [(naming(tuple(e.key for e in path[1:])), leaf) for path, leaf in leaves]
    keys = [key for key, _ in named if key is not None]
    assert len(set(keys)) == len(keys)
    return {key: leaf.shape for key, leaf in named if key is not None}


def _load(module, form, state_dict):
    """Returns the variables that a checkpoint gives; every key is used once."""
    naming, taken = form.naming(module), []

    def load(path, leaf):
        key = naming(tuple(entry.key for entry in path[1:]))
        taken.append(key)
        value = state_dict[key]
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
        value = value if axes is None else value.transpose(axes)
        assert value.shape == leaf.shape, key
        return jnp.asarray(value)

    variables = jax.tree_util.tree_map_with_path(load, _shapes(module))
    ignored = "|".join((COUNTERS, *form.ignored))
    assert sorted(taken) == sorted(
        key for key in state_dict if not re.fullmatch(ignored, key)
    )
    return variables


def _arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


# EENet: exits cut the layers' blocks into segments.


def test_resnet56_3_agrees_with_the_published_model(shared):
    folder = shared / "fixtures" / "parity" / "resnet56_3"
    golden = _arrays(folder / "golden.npz")
    module = resnet.resnet56_3(10)
    variables = _load(module, EENET, _arrays(folder / "state_dict.npz"))
    x = golden["input"].transpose(0, 2, 3, 1)
    logits = jit(module.apply)(variables, x)
    for k in range(3):
        expected = golden[f"logits_{k}"]
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(logits[k], expected, rtol=0, atol=atol)


def _segments(keys) -> dict[str, int]:
    """Returns the number of blocks of every ``layer{s}.{segment}``."""
    found = {re.match(r"(layer\d\.\d+)\.(\d+)\.", key) for key in keys}
    blocks: dict[str, set[int]] = {}
    for match in found - {None}:
        blocks.setdefault(match[1], set()).add(int(match[2]))
    assert all(indices == set(range(len(indices))) for indices in blocks.values())
    return {segment: len(indices) for segment, indices in sorted(blocks.items())}


@pytest.mark.parametrize(
    ("exits", "segments", "exit_widths"),
    [
        (
            (4, 13),
            {"layer1.0": 4, "layer1.1": 5, "layer2.0": 4, "layer2.1": 5, "layer3.0": 9},
            {"ee1.0": 64, "ee2.0": 128},
        ),
        (
            (9, 18),
            {"layer1.0": 9, "layer2.1": 9, "layer3.1": 9},
            {"ee2.0": 64, "ee3.0": 128},
        ),
        (
            (0, 10, 12, 26),
            {"layer1.1": 9, "layer2.0": 1, "layer2.1": 2, "layer2.2": 6}
            | {"layer3.0": 8, "layer3.1": 1},
            {"ee1.0": 16, "ee2.0": 128, "ee2.1": 128, "ee3.0": 256},
        ),
        ((), {"layer1.0": 9, "layer2.0": 9, "layer3.0": 9}, {}),
    ],
)
def test_exits_cut_the_keys_of_eenets_layers(exits, segments, exit_widths):
    keys = _keys(resnet.resnet56_3(10, exits=exits), EENET)
    assert _segments(keys) == segments
    first = {key: re.fullmatch(r"(ee\d\.\d)\.0\.weight", key) for key in keys}
    read = {match[1]: keys[key][2] for key, match in first.items() if match}
    assert read == exit_widths
    for name in exit_widths:
        inner = {key[len(name) + 1 :] for key in keys if key.startswith(f"{name}.")}
        norms = ("weight", "bias", "running_mean", "running_var")
        expected = {f"{i}.{leaf}" for i in (1, 4, 7) for leaf in norms}
        expected |= {"0.weight", "3.weight", "6.weight", "11.weight", "11.bias"}
        assert inner == expected
    shortcuts = [key for key in keys if key.endswith("shortcut.0.weight")]
    assert len(shortcuts) == 3
    assert {"conv1.weight", "bn1.running_var", "linear.weight"} <= set(keys)


def test_more_than_ten_exits_keep_their_numbers():
    keys = _keys(resnet.resnet56_3(10, exits=tuple(range(1, 27))), EENET)
    assert {key.split(".")[1] for key in keys if key.startswith("ee1.")} == {
        str(i) for i in range(8)
    }
    assert "layer3.9.0.conv1.weight" in keys and "ee3.8.11.bias" in keys


def test_heads_that_eenet_does_not_have_get_no_name():
    keys = _keys(resnet.resnet56_3(10, head="linear"), EENET)
    assert not any(key.startswith("ee") for key in keys)
    assert "linear.bias" in keys


# Single-exit formats.


def test_a_cifar_checkpoint_fills_all_but_the_early_heads():
    module = resnet.cifar_resnet(10, depth=20, exits=(1, 5))
    keys = _keys(module, AKAMASTER)
    assert len(keys) == 97  # tensors of resnet20-12fca82f.th
    assert keys["layer2.2.conv2.weight"] == (3, 3, 32, 32)
    assert keys == _keys(resnet.cifar_resnet(10, depth=20, exits=()), AKAMASTER)
    projected = resnet.cifar_resnet(10, depth=20, shortcut="projection")
    assert set(_keys(projected, AKAMASTER)) - set(keys) == {
        f"layer{s}.0.shortcut.{module}"
        for s in (2, 3)
        for module in ("0.weight", "1.weight", "1.bias")
        + ("1.running_mean", "1.running_var")
    }


@pytest.mark.parametrize(
    ("depth", "last_block", "shortcuts", "tensors"),
    # 5 tensors for each of 20, 36 and 53 convolutions with their BatchNorm, and the fc.
    [(18, "layer4.1", 3, 102), (34, "layer4.2", 3, 182), (50, "layer4.2", 4, 267)],
)
def test_names_are_torchvisions(depth, last_block, shortcuts, tensors):
    module = resnet_imagenet.imagenet_resnet(10, depth=depth, exits=(1, 4))
    keys = _keys(module, TORCHVISION)
    assert len(keys) == tensors
    assert f"{last_block}.bn2.running_mean" in keys
    assert "layer2.0.downsample.1.running_var" in keys
    found = [key for key in keys if key.endswith("downsample.0.weight")]
    assert len(found) == shortcuts
    assert keys["conv1.weight"] == (7, 7, 3, 64)
    assert {"bn1.bias", "fc.weight", "fc.bias"} <= set(keys)


@pytest.mark.parametrize(
    ("form", "module"),
    [
        (EENET, resnet.resnet56_3(7)),
        (AKAMASTER, resnet.cifar_resnet(7, depth=20)),
        (TORCHVISION, resnet_imagenet.resnet18(7)),
        (RESNET8, resnet8.resnet8_2ee(7)),
    ],
    ids=("eenet", "akamaster", "torchvision", "resnet8"),
)
def test_the_keys_with_the_classes_are_known(form, module):
    with_classes = {key for key, shape in _keys(module, form).items() if 7 in shape}
    # A 7x7 convolution has no classes.
    with_classes.discard("conv1.weight")
    found = {key for key in _keys(module, form) if re.fullmatch(form.classes_key, key)}
    assert found == with_classes and found


# Trained weights on the pixel-exact part of the CIFAR-10 test set.


@functools.cache
def _images(folder):
    """Returns 1,017 images in [0, 1], [B, 32, 32, 3], and their labels."""
    mosaic = np.asarray(Image.open(folder / "cifar10_test_exact.webp").convert("RGB"))
    rows = mosaic.reshape(-1, 32, 32, 32, 3).transpose(0, 2, 1, 3, 4)
    labels = _arrays(folder / "cifar10_exact_index.npz")["test_labels"]
    images = rows.reshape(-1, 32, 32, 3)[: len(labels)]
    return np.float32(images) / 255, labels


@functools.cache
def _answer(module):
    return jit(lambda variables, x: module.apply(variables, x).argmax(-1))


def _correct(module, variables, images, labels) -> np.ndarray:
    """Counts right answers of every exit, [K]."""
    batches = np.split(images, 9)  # 113 each
    answers = [_answer(module)(variables, batch) for batch in batches]
    return (np.concatenate(answers, axis=1) == labels).sum(axis=1)


@pytest.mark.parametrize(
    ("file", "accuracy"),
    [
        pytest.param("resnet20-12fca82f", 91.64, marks=pytest.mark.slow),
        pytest.param("resnet56-4bfd9763", 92.72, marks=pytest.mark.slow),
    ],
)
def test_imported_cifar_resnets_are_as_good_as_measured(file, accuracy, shared):
    depth = int(file[len("resnet") :].split("-")[0])
    module = resnet.cifar_resnet(10, depth=depth, exits=())
    state_dict = _arrays(shared / "data" / "weights" / f"cifar10_{file}.npz")
    variables = _load(module, AKAMASTER, state_dict)
    images, labels = _images(shared / "data" / "cifar10")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalised = np.float32((images - mean) / std)
    correct = _correct(module, variables, normalised, labels)
    assert abs(correct[0] - accuracy / 100 * len(labels)) <= 1


@pytest.mark.parametrize(
    ("file", "accuracies"),
    [
        ("2ee_230721b", (76.20, 89.18)),
        ("2ee_230721", (77.48, 88.10)),
        ("2ee_230721_jnt-frm-scrtch", (80.04, 85.64)),
        ("bb_t1acc88", (88.99,)),  # without the early exit
    ],
)
def test_imported_resnet8s_are_as_good_as_measured(file, accuracies, shared):
    module = resnet8.resnet8_2ee(10, exits=(0,) * (len(accuracies) - 1))
    folder = shared / "data" / "weights" / "earlyexitnet"
    variables = _load(module, RESNET8, _arrays(folder / f"resnet8_{file}.npz"))
    images, labels = _images(shared / "data" / "cifar10")
    expected = np.array(accuracies) / 100 * len(labels)
    assert (abs(_correct(module, variables, images, labels) - expected) <= 1).all()
