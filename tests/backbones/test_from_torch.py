"""Import from PyTorch: layouts, formats, class counts, files, and what is refused."""

import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from eenet_jax import backbones
from eenet_jax.backbones import from_torch, to_torch
from eenet_jax.errors import UserError

# Names with options that make the network small where there are such.
SMALL = {
    "resnet56_3": {},
    "cifar_resnet": {"depth": 8, "width": 4},
    "resnet8_2ee": {},
    "resnet18": {"stem": "small"},
    "vgg11_bn": {"pool": 1, "hidden": 8},
    "densenet_bc_40_12": {},
    "cifar_msdnet": {"num_blocks": 2, "channels": 4, "growth": 2},
    "bert": {
        "num_layers": 2,
        "hidden": 8,
        "num_heads": 2,
        "intermediate": 16,
        "vocab_size": 11,
        "max_positions": 8,
        "exits": (1,),
    },
}


def shapes_of(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def torch_tensors(backbone, form: int = 0) -> dict[str, np.ndarray]:
    """Draws a state dict as PyTorch would have it, by the format's own names."""
    naming = from_torch.FORMATS[backbone.name][form].naming(backbone.module)
    rng = np.random.default_rng(0)
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes_of(backbone)):
        names = tuple(entry.key for entry in path[1:])
        key = naming(names)
        if key is None:
            continue
        shape = leaf.shape
        if names[-1] == "kernel":  # HWIO to OIHW, [in, out] to [out, in]
            order = (3, 2, 0, 1) if len(shape) == 4 else (1, 0)
            shape = tuple(shape[i] for i in order)
        tensors[key] = rng.standard_normal(shape).astype(np.float32)
        if names[-1] == "var":
            tensors[key] = np.exp(tensors[key])
    return tensors


@pytest.mark.parametrize(
    ("name", "form"),
    [(n, f) for n in SMALL for f in range(len(from_torch.FORMATS[n]))],
)
def test_every_format_fills_the_network(name, form):
    backbone = backbones.build(name, num_classes=5, **SMALL[name])
    tensors = torch_tensors(backbone, form)
    counters = {"bn.num_batches_tracked": np.array(3)}
    shapes = shapes_of(backbone)
    imported = from_torch.take(backbone, shapes, {**tensors, **counters})
    assert not imported.skipped
    assert all(part.startswith("heads_") for part in imported.fresh)
    taken = [
        leaf for leaf in jax.tree.leaves(imported.variables) if hasattr(leaf, "sum")
    ]
    assert len(taken) == len(tensors)
    total = sum(float(v.sum(dtype=np.float64)) for v in tensors.values())
    ours = sum(float(leaf.sum(dtype=np.float64)) for leaf in taken)
    np.testing.assert_allclose(ours, total, rtol=1e-9)


def test_convolutions_and_linears_are_laid_out_anew():
    backbone = backbones.build("cifar_resnet", num_classes=5, depth=8, exits=())
    tensors = torch_tensors(backbone)
    variables = from_torch.convert("cifar_resnet", tensors, depth=8, exits=())
    params = variables["params"]
    conv = tensors["layer2.0.conv1.weight"]  # [32, 16, 3, 3]
    ours = params["stages_0"]["blocks_1"]["conv1"]["kernel"]
    np.testing.assert_array_equal(ours[2, 0, 5, 7], conv[7, 5, 2, 0])
    linear = params["heads_0"]["linear"]
    np.testing.assert_array_equal(linear["kernel"], tensors["linear.weight"].T)
    np.testing.assert_array_equal(linear["bias"], tensors["linear.bias"])
    stats = variables["batch_stats"]["stem"]["bn"]
    np.testing.assert_array_equal(stats["var"], tensors["bn1.running_var"])


@pytest.mark.slow
def test_single_exit_weights_leave_the_early_heads_fresh():
    options = {**SMALL["cifar_resnet"], "exits": (1,)}
    backbone = backbones.build("cifar_resnet", num_classes=5, **options)
    tensors = torch_tensors(backbone)
    variables = from_torch.convert("cifar_resnet", tensors, **options)
    x = np.random.default_rng(1).standard_normal((2, 16, 16, 3)).astype(np.float32)
    logits, _ = jax.jit(backbone.apply)(variables, x)
    assert logits.shape == (2, 2, 5) and np.isfinite(logits).all()
    assert not np.array_equal(logits[0], logits[1])
    again = from_torch.convert("cifar_resnet", tensors, **options)
    same = jax.tree.map(np.array_equal, variables, again)
    assert all(jax.tree.leaves(same))  # fresh heads too: the key is fixed


def test_the_number_of_classes_is_read_off():
    backbone = backbones.build("cifar_resnet", num_classes=7, depth=8, exits=())
    variables = from_torch.convert(
        "cifar_resnet", torch_tensors(backbone), depth=8, exits=()
    )
    assert variables["params"]["heads_0"]["linear"]["bias"].shape == (7,)


# What does not fit.


@pytest.fixture
def plain():
    """A small network and the tensors that fill it."""
    backbone = backbones.build("cifar_resnet", num_classes=5, depth=8, exits=())
    return backbone, torch_tensors(backbone)


def test_missing_unexpected_and_misshaped_tensors_are_listed(plain):
    backbone, tensors = plain
    del tensors["layer3.0.bn2.bias"]
    tensors["layer4.0.conv1.weight"] = np.zeros((2, 2, 3, 3))
    tensors["linear.weight"] = np.zeros((10, 64))
    with pytest.raises(UserError) as caught:
        from_torch.take(backbone, shapes_of(backbone), tensors)
    lines = str(caught.value).splitlines()
    assert "model.name='cifar_resnet' with 5 classes" in lines[0]
    assert lines[1] == "  1 missing: layer3.0.bn2.bias"
    assert lines[2] == "  1 unexpected: layer4.0.conv1.weight"
    assert lines[3] == "  1 of another shape: linear.weight (10, 64), here (5, 64)"


def test_partial_takes_what_fits_and_says_the_rest(plain):
    backbone, tensors = plain
    tensors["linear.weight"] = np.zeros((10, 64))
    tensors["extra"] = np.zeros(2)
    shapes = shapes_of(backbone)
    before = jax.tree.map(lambda leaf: np.full(leaf.shape, 7.0), shapes)
    imported = from_torch.take(backbone, before, tensors, partial=True)
    assert imported.fresh == ("heads_0",)
    assert imported.skipped == ("extra", "linear.weight (10, 64), here (5, 64)")
    kernel = imported.variables["params"]["heads_0"]["linear"]["kernel"]
    np.testing.assert_array_equal(
        kernel, before["params"]["heads_0"]["linear"]["kernel"]
    )
    stem = imported.variables["params"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, tensors["conv1.weight"].transpose(2, 3, 1, 0))


def test_weights_of_another_model_are_refused(plain):
    backbone, _ = plain
    other = backbones.build("vgg11_bn", num_classes=5, **SMALL["vgg11_bn"])
    with pytest.raises(
        UserError,
        match="none of the 54 tensors .*features.1.* it would have .*layer1.0",
    ):
        from_torch.take(
            backbone, shapes_of(backbone), torch_tensors(other), partial=True
        )
    with pytest.raises(UserError, match="tells the number of classes"):
        from_torch.convert("resnet20", torch_tensors(other))
    with pytest.raises(
        UserError, match="no import from PyTorch for model.name='lenet'"
    ):
        from_torch.convert("lenet", {})


# Files.


def test_files_of_all_kinds_are_read(tmp_path):
    tensors = {"module.a": np.arange(6.0).reshape(2, 3), "module.b": np.ones(2)}
    np.savez(tmp_path / "w.npz", **tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    for path in (tmp_path / "w.npz", tmp_path / "model.safetensors", tmp_path):
        read = from_torch.load_state_dict(path)
        assert sorted(read) == ["a", "b"]
        np.testing.assert_array_equal(read["a"], tensors["module.a"])


def test_files_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="w.npz is not there"):
        from_torch.load_state_dict(tmp_path / "w.npz")
    with pytest.raises(UserError, match="holds none of model.safetensors"):
        from_torch.load_state_dict(tmp_path)
    (tmp_path / "w.npz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="w.npz cannot be read"):
        from_torch.load_state_dict(tmp_path / "w.npz")
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(UserError, match="w.safetensors cannot be read"):
        from_torch.load_state_dict(tmp_path / "w.safetensors")
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no .npz, .safetensors or PyTorch file"):
        from_torch.load_state_dict(tmp_path / "w.h5")
    (tmp_path / "w.pth").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(UserError, match="not installed: pip install torch"):
        from_torch.load_state_dict(tmp_path / "w.pth")


def test_stages_of_one_network_serve_another_with_other_exits():
    small = {"depth": 8, "width": 4, "num_classes": 3}
    one = backbones.build("cifar_resnet", exits=(1,), **small)
    other = backbones.build("cifar_resnet", exits=(0, 2), head="residual", **small)
    fill = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: fill.random(a.shape, np.float32), shapes_of(one))
    tensors = to_torch.single_exit(one, variables)
    taken = from_torch.take(other, shapes_of(other), tensors)
    assert taken.fresh == ("heads_0", "heads_1") and not taken.skipped
    stem, block = (taken.variables["params"][part] for part in ("stem", "stages_2"))
    assert stem["conv"]["kernel"].shape == (3, 3, 3, 4)
    np.testing.assert_array_equal(
        stem["conv"]["kernel"], variables["params"]["stem"]["conv"]["kernel"]
    )
    np.testing.assert_array_equal(
        block["blocks_0"]["conv1"]["kernel"],
        variables["params"]["stages_1"]["blocks_1"]["conv1"]["kernel"],
    )
    assert from_torch.take(one, variables, tensors).fresh == ("heads_0",)
