"""LEENet's networks: published sizes and arithmetic, and its checkpoints with gates."""

import functools
import json
import math
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones, runtime
from eenet_jax.backbones import from_torch
from eenet_jax.backbones.torch_names import leenet
from eenet_jax.costs.flops import exit_mflops
from eenet_jax.errors import UserError

# Millions of multiply-adds in front of each head, and with the last (BACKBONES 2).
MMACS = {
    "leenet_resnet50": (10, [118.0, 786.0, 1813.6, 4087.2]),
    "leenet_vgg11_bn": (10, [20.644, 77.267, 133.890, 152.764, 171.680]),
    "leenet_densenet121": (100, [53.158, 90.612, 120.545, 125.376]),
}
# With the exits' classifiers and gates.
PARAMS = {
    "leenet_resnet50": 38_982_763,
    "leenet_vgg11_bn": 28_312_886,
    "leenet_densenet121": 3_207_475,
}
READS = {  # numbers that each exit reads
    "leenet_resnet50": [200_704, 802_816, 401_408],
    "leenet_vgg11_bn": [8192, 4096, 2048, 512],
    "leenet_densenet121": [12_288, 6144, 3072],
}
FIXTURES = {
    "leenet_vgg11_bn": "vgg11_bn_cifar10",
    "leenet_densenet121": "densenet121_cifar100",
}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


@pytest.mark.parametrize("name", MMACS)
def test_it_has_the_published_arithmetic_and_parameters(name):
    classes, mmacs = MMACS[name]
    backbone = backbones.build(name, num_classes=classes)
    shapes = _shapes(backbone)
    found = exit_mflops(backbone, shapes, backbone.example())
    alone = found.costs - np.cumsum(found.head_costs)
    alone = np.append(alone[:-1], found.costs[-1] - sum(found.head_costs[:-1])) / 2
    np.testing.assert_allclose(alone, mmacs, atol=0.05)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    gates = sum(READS[name]) + len(READS[name])
    assert count + gates == PARAMS[name]
    for k, size in enumerate(READS[name]):
        kernel = shapes["params"][f"heads_{k}"]["linear"]["kernel"]
        assert kernel.shape == (size, classes)


SETS = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenette": (224, 10)}
OWN = dict(zip(MMACS, ("imagenette", "cifar10", "cifar100"), strict=True))
PAIRS = [
    pytest.param(
        name, which, *of, marks=[] if OWN[name] == which else [pytest.mark.slow]
    )
    for name in MMACS
    for which, of in SETS.items()
]


@pytest.mark.parametrize(("name", "which", "side", "classes"), PAIRS)
def test_all_nine_pairs_with_the_published_sets(name, which, side, classes):
    backbone = backbones.build(name, num_classes=classes)
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    params = jax.eval_shape(backbone.init, jax.random.key(0), x)["params"]
    kernels = [params[f"heads_{k}"]["linear"]["kernel"] for k in range(3)]
    assert {kernel.shape[1] for kernel in kernels} == {classes}
    if OWN[name] == which:
        assert [kernel.shape[0] for kernel in kernels] == READS[name][:3]


def _tensor(name: str, shape: list[int], kind: str) -> np.ndarray:
    """Draws a tensor by the recipe of shared/fixtures/parity/README.md, seed 0."""
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    n = rng.standard_normal(shape)
    if kind == "bn":
        by_name = {"running_mean": 0.2 * n, "running_var": np.exp(0.3 * n)}
        by_name |= {"weight": 1 + 0.1 * n, "bias": 0.1 * n}
        n = by_name[name.rpartition(".")[2]]
    else:
        scale = {"bias": 0.05}.get(kind)
        n *= scale or math.sqrt((2 if kind == "conv" else 1) / math.prod(shape[1:]))
    return n.astype(np.float32)


@pytest.fixture(params=FIXTURES)
def published(request, shared):
    """Name, state dict and golden vectors of a published network."""
    folder, stem = shared / "fixtures" / "leenet", FIXTURES[request.param]
    recipe = json.loads((folder / f"{stem}_recipe.json").read_text())
    state_dict = {row[0]: _tensor(*row) for row in recipe["tensors"]}
    with np.load(folder / f"{stem}_golden.npz") as file:
        golden = {key: file[key] for key in file.files}
    return request.param, state_dict, golden


@pytest.mark.slow
def test_published_networks_and_gates_agree(published):
    name, state_dict, golden = published
    logits = [golden[key] for key in sorted(golden) if key.startswith("logits")]
    # As saved by the original, all keys begin with "model.".
    saved = {f"model.{key}": value for key, value in state_dict.items()}
    variables = from_torch.convert(name, saved)
    backbone = backbones.build(name, num_classes=logits[0].shape[-1])
    x = jnp.asarray(golden["input"].transpose(0, 2, 3, 1))

    @jit
    def run(variables, x):
        features, carry = [], backbone.stem(variables, x)
        for k in range(backbone.num_exits):
            carry = backbone.stage(k, variables, carry)
            features.append(backbone.exit_features(k, variables, carry))
        return backbone.apply(variables, x)[0], features

    found, features = run(variables, x)
    for ours, theirs in zip(found, logits, strict=True):
        limit = 1e-4 * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
    policy = from_torch.gates(name, state_dict, np.arange(1.0, len(logits) + 1))
    scores = np.asarray(policy.scores(found, features))[:-1]
    np.testing.assert_allclose(scores.T, golden["gates"], atol=1e-4)
    # The same rows leave.
    leave = np.append(golden["gates"] > 0.5, np.ones((len(x), 1), bool), axis=1)
    ladders = ((len(x),),) * len(logits)
    answers = runtime.adaptive_predict(backbone, variables, policy, x, ladders=ladders)
    np.testing.assert_array_equal(answers.exit_index, leave.argmax(axis=1))


def test_keys_are_leenets():
    def naming(name, spelling, **options):
        backbone = backbones.build(name, num_classes=10, **options)
        found = leenet.SPELLINGS[name][spelling]
        return found.format().naming(backbone.module), found.gates(backbone.module)

    key, gates = naming("leenet_resnet50", 1)  # "model." before all
    assert key(("stem", "conv", "kernel")) == "model.conv1.weight"
    block = ("stages_1", "blocks_0", "conv2", "kernel")  # of layer1, behind exit 1
    assert key(block) == "model.layer1.module.0.conv2.weight"
    assert key(("stages_3", "blocks_6", "bn1", "mean")) == (
        "model.layer4.0.bn1.running_mean"
    )
    assert key(("heads_1", "linear", "bias")) == "model.layer2.classifier.bias"
    assert gates == tuple(f"model.layer{n}.exit_gate" for n in (1, 2, 3))
    key, gates = naming("leenet_resnet50", 0, exits=(3, 5))  # one inside of another
    assert gates == ("layer2.exit_gate", "layer2.module.2.exit_gate")
    assert key(("stages_2", "blocks_0", "conv1", "kernel")) == (
        "layer2.module.2.module.conv1.weight"
    )
    assert key(("heads_1", "linear", "kernel")) == ("layer2.module.2.classifier.weight")
    key, gates = naming("leenet_vgg11_bn", 2, hidden=512)  # CIFAR-100's
    assert key(("heads_3", "linear", "bias")) == "classifier.0.classifier.bias"
    assert key(("heads_4", "linear0", "bias")) == "classifier.0.module.bias"
    assert key(("heads_4", "linear2", "bias")) == "classifier.6.bias"
    assert gates[::3] == ("features.8.exit_gate", "classifier.0.exit_gate")


def test_classifiers_of_all_sizes_are_read():
    name = "leenet_vgg11_bn"
    for pool, hidden in ((1, 4096), (1, 512), (7, 4096)):
        weight = np.broadcast_to(np.float32(0), (hidden, 512 * pool**2))
        for key in ("model.classifier.0.weight", "classifier.0.module.weight"):
            found = leenet.sizes_of(name, {"features.0.bias": weight[0], key: weight})
            assert found == {"pool": pool, "hidden": hidden}
    assert leenet.sizes_of(name, {}) == {}
    assert leenet.sizes_of("vgg11_bn", {key: weight}) == {}


def test_gates_that_are_not_there_are_named():
    with pytest.raises(UserError, match="'resnet20' has no gates; choose from"):
        from_torch.gates("resnet20", {}, [])
    last = {"linear.weight": np.zeros((100, 384)), "linear.bias": np.zeros(100)}
    with pytest.raises(UserError, match="lack gates: dense2.exit_gate.weight, "):
        from_torch.gates("leenet_densenet121", last, [1, 2, 3, 4])
    with pytest.raises(UserError, match="costs has 2 numbers, 'leenet_.*' 4 exits"):
        from_torch.gates("leenet_densenet121", last, [1, 2])
