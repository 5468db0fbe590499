"""PyTorch's names in DenseNets: every cut, both of torchvision's spellings, heads."""

import re

import jax
import jax.numpy as jnp
import pytest

from eenet_jax.backbones import densenet
from eenet_jax.backbones.torch_names import densenet as names

FORMATS = {
    "eenet": names.EENET,
    "single_exit": names.SINGLE_EXIT,
    "torchvision": names.TORCHVISION,
    "old_torchvision": names.OLD_TORCHVISION,
    "densenet_bc": names.DENSENET_BC,
}
HEAD = 3 * 5 + 2  # leaves of a convolutional head


def _small(exits=(1, 2, 3), *, stem="cifar", head="conv"):
    """Builds a DenseNet of four blocks with 2, 1, 3 and 1 layers and 7 classes."""
    spec = densenet.DenseSpec((2, 1, 3, 1), growth=4, new_first=True, stem=stem)
    return densenet.build_staged(spec, 7, exits, head, 4, jnp.float32)


def _named(module, form) -> list[tuple[str | None, tuple[int, ...]]]:
    """Returns the name and the shape of every leaf, in one order for all formats."""
    naming = form.naming(module)
    size = (1, module.image_size, module.image_size, 3)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(size))
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return [(naming(tuple(e.key for e in path[1:])), x.shape) for path, x in leaves]


def _keys(module, form) -> list[str | None]:
    return [key for key, _ in _named(module, form)]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_names_follow_the_blocks_through_any_cut(form):
    stem = "imagenet" if "torchvision" in form.naming.__name__ else "cifar"
    whole = _keys(_small((), stem=stem), form)
    norms = 2 * 7 + 3 + 1 + (stem == "imagenet")
    assert len(whole) == len(set(whole)) == 1 + 2 * 7 + 3 + 4 * norms + 2
    for exits in [(2,), (1, 3), (1, 2, 3)]:
        keys = _keys(_small(exits, stem=stem), form)
        early = {key for key in keys if key and key.startswith("ee_")}
        assert {*keys} - early - {None} == {*whole}


def test_known_keys():
    def holds(form, *keys, **options):
        assert {*keys} <= {*_keys(_small(**options), form)}

    holds(
        names.EENET,
        *("conv1.weight", "dense3.2.bn1.running_var", "trans2.conv.weight", "bn.bias"),
        *("ee_classifiers.2.6.weight", "ee_classifiers.0.7.weight", "linear.bias"),
    )
    holds(
        names.TORCHVISION,
        *("features.conv0.weight", "features.denseblock3.denselayer3.norm2.bias"),
        *("features.transition2.norm.running_mean", "features.norm5.weight"),
        *("features.norm0.running_var", "classifier.weight"),
        stem="imagenet",
    )
    holds(
        names.DENSENET_BC,
        *("conv1.weight", "block3.layer.2.bn2.weight", "trans1.bn1.running_mean"),
        *("trans1.conv1.weight", "bn1.running_var", "fc.bias"),
    )


def test_the_imagenet_stem_of_eenet_is_a_sequence():
    keys = _keys(_small(stem="imagenet"), names.EENET)
    leaves = ("weight", "bias", "running_mean", "running_var")
    expected = {"conv1.0.weight", *(f"conv1.1.{leaf}" for leaf in leaves)}
    assert {key for key in keys if key.startswith("conv1")} == expected


@pytest.mark.slow
def test_both_spellings_of_torchvision_name_the_same_parts():
    module = densenet.densenet121(1000, exits=())
    new = _keys(module, names.TORCHVISION)
    old = _keys(module, names.OLD_TORCHVISION)
    assert len(new) == 120 + 4 * 121 + 2  # convolutions, BatchNorms, linear
    assert "features.denseblock3.denselayer24.norm2.running_var" in new
    assert "features.denseblock3.denselayer24.norm.2.running_var" in old
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])")
    assert [pattern.sub(r"\1\2", key) for key in old] == new


@pytest.mark.parametrize(
    ("form", "head", "fresh"),
    [
        ("eenet", "conv", 0),
        ("eenet", "linear", 3 * 2),
        ("single_exit", "conv", 3 * HEAD),
        ("torchvision", "conv", 3 * HEAD),
        ("old_torchvision", "conv", 3 * HEAD),
        ("densenet_bc", "conv", 3 * HEAD),
    ],
)
def test_only_eenets_convolutional_early_heads_have_names(form, head, fresh):
    keys = _keys(_small(head=head), FORMATS[form])
    assert keys.count(None) == fresh
    early = sum(key.startswith("ee_classifiers.") for key in keys if key)
    assert early == (3 * HEAD if fresh == 0 else 0)


def test_early_heads_are_numbered_in_their_order():
    keys = _keys(_small((2,)), names.EENET)
    assert "ee_classifiers.0.11.bias" in keys
    assert not any(key.startswith("ee_classifiers.1") for key in keys)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_classes_key_finds_every_tensor_with_a_class_axis(form):
    named = [(key, shape) for key, shape in _named(_small(), form) if key]
    found = {key for key, _ in named if re.fullmatch(form.classes_key, key)}
    # No other last axis is 7 long.
    assert found == {key for key, shape in named if shape[-1] == 7} != set()
