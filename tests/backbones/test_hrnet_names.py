"""HRNet weights from PyTorch: ADP-C's, with one exit, of ImageNet; and refusals."""

import json

import jax
import numpy as np
import pytest
from hrnet_cases import SMALL, kind_of, shapes_of, small, torch_shapes

from eenet_jax import backbones
from eenet_jax.backbones import from_torch, to_torch
from eenet_jax.errors import UserError


def _tensors(backbone) -> dict[str, np.ndarray]:
    """A state dict of ADP-C's, each tensor filled with its own number."""
    shapes = torch_shapes(backbone)
    return {
        key: np.full(shape, i, np.float32)
        for i, (key, shape) in enumerate(shapes.items(), 1)
    }


def _numbers(variables) -> list[float]:
    leaves = jax.tree.leaves(variables)
    return sorted(
        float(leaf.flat[0]) for leaf in leaves if isinstance(leaf, np.ndarray)
    )


def test_names_and_shapes_are_those_of_adpc(shared):
    path = shared / "fixtures" / "adpc_hrnet" / "hrnet_w18_recipe.json"
    rows = json.loads(path.read_text())["tensors"]
    found = torch_shapes(backbones.build("hrnet_w18s", num_classes=19))
    assert found == {key: tuple(shape) for key, shape, _ in rows}
    assert {key: kind_of(key, shape) for key, shape in found.items()} == {
        key: kind for key, _, kind in rows
    }


@pytest.mark.slow
def test_keys_of_the_full_size_and_of_plain_heads():
    names = torch_shapes(backbones.build("hrnet_w48", num_classes=19, heads="plain"))
    assert names["layer1.3.conv3.weight"] == (256, 64, 1, 1)
    assert names["stage4.2.fuse_layers.3.0.2.0.weight"] == (384, 48, 3, 3)
    assert names["stage3.3.branches.2.3.bn2.running_var"] == (192,)
    assert names["exit2.0.weight"] == (144, 144, 1, 1)
    assert names["exit2.1.running_mean"] == (144,)
    assert names["exit3.3.bias"] == (19,)


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
def test_adpc_weights_fill_the_network(prefix):
    backbone = small()
    tensors = {prefix + key: value for key, value in _tensors(backbone).items()}
    tensors[f"{prefix}bn1.num_batches_tracked"] = np.array(3)
    tensors[f"{prefix}transition1.0.0.Lambda"] = np.array(3.0)
    tensors["loss.criterion.weight"] = np.ones(3)
    imported = from_torch.take(backbone, shapes_of(backbone), tensors)
    assert not imported.fresh and not imported.skipped
    assert _numbers(imported.variables) == list(range(1, len(tensors) - 2))


def test_exits_that_are_left_out_are_not_asked_for():
    tensors = _tensors(small())
    variables = from_torch.convert("hrnet_w18s", tensors, **SMALL, exits=(2,))
    head = variables["params"]["heads_0"]["logits"]["bias"]
    assert head[0] == tensors["exit2.13.bias"][0]
    moved = variables["params"]["stages_1"]["blocks_1"]["transition_3"]
    expected = tensors["transition3.3.0.0.weight"][0, 0, 0, 0]
    assert moved["conv"]["kernel"][0, 0, 0, 0] == expected


def test_weights_with_one_exit_leave_the_early_heads_fresh():
    tensors = {
        f"model.{key}": value
        for key, value in _tensors(small()).items()
        if not key.startswith("exit")
    }
    imported = from_torch.take(small(), shapes_of(small()), tensors)
    assert imported.fresh == ("heads_0", "heads_1", "heads_2")
    assert len(_numbers(imported.variables)) == len(tensors)


def test_imagenet_weights_fill_the_backbone():
    tensors = {
        key: value
        for key, value in _tensors(small()).items()
        if not key.startswith(("exit", "last_layer"))
    }
    count = len(tensors)
    for key in ("incre_modules.0.0.conv1", "downsamp_modules.0.0", "final_layer.0"):
        tensors[f"{key}.weight"] = np.zeros((2, 2, 1, 1))
    tensors["classifier.weight"] = np.zeros((1000, 2))
    imported = from_torch.take(small(), shapes_of(small()), tensors)
    assert imported.fresh == tuple(f"heads_{k}" for k in range(4))
    assert not imported.skipped and len(_numbers(imported.variables)) == count
    with pytest.raises(UserError, match="tells the number of classes .*give num_cl"):
        from_torch.convert("hrnet_w18s", tensors, **SMALL)


def test_what_does_not_fit_is_listed():
    tensors = _tensors(small())
    del tensors["stage2.0.fuse_layers.0.1.0.weight"]
    tensors["conv2.weight"] = np.zeros((4, 3, 3, 3))
    with pytest.raises(UserError) as caught:
        from_torch.take(small(), shapes_of(small()), tensors)
    assert "1 missing: stage2.0.fuse_layers.0.1.0.weight" in str(caught.value)
    assert "conv2.weight (4, 3, 3, 3), here (4, 4, 3, 3)" in str(caught.value)
    with pytest.raises(UserError, match=r"18 missing: exit1.1.running_mean"):
        backbone = small(heads="plain")
        from_torch.take(backbone, shapes_of(backbone), _tensors(small()))


def test_lambdas_are_read_where_there_are_some():
    backbone = small(mask="confidence", learn_lambda=True)
    tensors = _tensors(backbone)
    lambdas = [key for key in tensors if key.endswith(".Lambda")]
    assert len(lambdas) == 143 and tensors["stage4.1.branches.3.1.conv2.Lambda"] > 0
    assert {"exit2.13.Lambda", "last_layer.0.Lambda"} < set(lambdas)
    tensors["exit2.13.square_dis"] = np.zeros((7, 7))
    imported = from_torch.take(backbone, shapes_of(backbone), tensors)
    assert not imported.fresh and not imported.skipped
    assert len(_numbers(imported.variables)) == len(tensors) - 1
    imported = from_torch.take(backbone, shapes_of(backbone), _tensors(small()))
    assert imported.fresh == ("lambdas",) and not imported.skipped


def test_stages_of_one_network_serve_another_with_other_exits():
    one, other = small(exits=(1,)), small(heads="plain")
    fill = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: fill.random(a.shape, np.float32), shapes_of(one))
    tensors = to_torch.single_exit(one, variables)
    taken = from_torch.take(other, shapes_of(other), tensors)
    assert taken.fresh == ("heads_0", "heads_1", "heads_2") and not taken.skipped
    last = one.num_exits - 1
    np.testing.assert_array_equal(
        taken.variables["params"]["heads_3"]["logits"]["kernel"],
        variables["params"][f"heads_{last}"]["logits"]["kernel"],
    )
