"""The staged contract that every backbone keeps: shapes, fold, independence, state."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TINY = {"name": "cifar_resnet", "num_classes": 5, "depth": 14, "width": 4}
ALL = [
    {"name": "resnet56_3"},
    *({"name": "cifar_resnet", "depth": depth} for depth in (8, 20, 26)),
    {"name": "resnet20"},
]
DEEP = [{"name": f"resnet{depth}"} for depth in (32, 44, 56, 110)]
VARIANTS = [
    {**TINY},
    {**TINY, "exits": (0, 1, 3), "head": "linear", "shortcut": "projection"},
    {"name": "resnet56_3", "num_classes": 5},
]


def _label(options) -> str:
    return "-".join(str(v) for k, v in options.items() if k != "num_classes")


def _variables(backbone, x, rng):
    """Draws variables with lively BatchNorms; far quicker than compiling ``init``."""

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape)
        if name == "kernel":
            value = noise * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            value = np.exp(0.2 * noise)
        else:
            value = 0.1 * noise
        return jnp.asarray(value, leaf.dtype)

    shapes = jax.eval_shape(backbone.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _built(index: int):
    backbone = backbones.build(**VARIANTS[index])
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.standard_normal((4, 16, 16, 3)), jnp.float32)
    apply = jit(lambda variables, x: backbone.apply(variables, x)[0])
    return backbone, _variables(backbone, x, rng), x, apply


@pytest.fixture(params=range(len(VARIANTS)), ids=[_label(v) for v in VARIANTS])
def built(request):
    """Backbone, variables, inputs, and the jitted logits of evaluation mode."""
    return _built(request.param)


@pytest.fixture
def tiny():
    return _built(0)


@pytest.mark.parametrize(
    "options",
    [*ALL, *(pytest.param(options, marks=pytest.mark.slow) for options in DEEP)],
    ids=_label,
)
def test_logits_are_exits_by_batch_by_classes_for_three_sizes(options, key):
    backbone = backbones.build(num_classes=7, **options)
    shapes = jax.eval_shape(backbone.init, key, jnp.zeros((1, 32, 32, 3)))
    for size in (8, 28, 32):
        x = jax.ShapeDtypeStruct((3, size, size, 3), jnp.float32)
        logits, _ = jax.eval_shape(backbone.apply, shapes, x)
        assert logits.shape == (backbone.num_exits, 3, 7) == (3, 3, 7)
        assert logits.dtype == jnp.float32


@pytest.mark.parametrize("index", [0, 1])
def test_apply_is_the_fold_of_the_staged_view(index):
    backbone, variables, x, apply = _built(index)

    @jit
    def fold(variables, x):
        carry, logits = backbone.stem(variables, x), []
        for k in range(backbone.num_exits):
            carry = backbone.stage(k, variables, carry)
            logits.append(backbone.head(k, variables, carry))
        return logits

    folded, whole = fold(variables, x), apply(variables, x)
    assert all(z.dtype == jnp.float32 for z in folded)
    np.testing.assert_allclose(jnp.stack(folded), whole, rtol=1e-4, atol=1e-4)


def test_every_carry_leads_with_the_batch(built):
    backbone, variables, x, _ = built
    carry = jax.eval_shape(backbone.stem, variables, x)
    for k in range(backbone.num_exits):
        stage = functools.partial(backbone.stage, k)
        carry = jax.eval_shape(stage, variables, carry)
        features = functools.partial(backbone.exit_features, k)
        seen = jax.eval_shape(features, variables, carry)
        for leaf in jax.tree.leaves((carry, seen)):
            assert leaf.shape[0] == len(x)


def test_rows_of_a_carry_may_be_dropped(tiny):
    backbone, variables, x, apply = tiny
    keep = jnp.array([3, 1])

    @jit
    def run(variables, x):
        carry = backbone.stage(0, variables, backbone.stem(variables, x))
        carry = jax.tree.map(lambda leaf: leaf[keep], carry)
        return backbone.head(1, variables, backbone.stage(1, variables, carry))

    logits, expected = run(variables, x), np.asarray(apply(variables, x))[1, keep]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def _shifted(variables, parts):
    params = {
        name: jax.tree.map(lambda leaf: leaf + 0.3, tree) if name in parts else tree
        for name, tree in variables["params"].items()
    }
    return {**variables, "params": params}


def test_an_exit_ignores_later_stages_and_heads(built):
    backbone, variables, x, apply = built
    before = np.asarray(apply(variables, x))
    for k in range(backbone.num_exits - 1):
        later = range(k + 1, backbone.num_exits)
        parts = [f"{part}_{j}" for part in ("stages", "heads") for j in later]
        after = np.asarray(apply(_shifted(variables, parts), x))
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[k + 1 :] != before[k + 1 :]).any(axis=(1, 2)).all()


def test_a_head_serves_its_exit_alone(built):
    backbone, variables, x, apply = built
    before = np.asarray(apply(variables, x))
    for k in range(backbone.num_exits):
        after = np.asarray(apply(_shifted(variables, [f"heads_{k}"]), x))
        changed = (after != before).any(axis=(1, 2))
        assert changed.tolist() == [j == k for j in range(backbone.num_exits)]


@functools.cache
def _trained_state():
    backbone, variables, x, _ = _built(0)
    return jit(functools.partial(backbone.apply, train=True))(variables, x)[1]


def test_training_mode_changes_all_batch_statistics(tiny):
    _, variables, _, _ = tiny
    state = _trained_state()
    assert set(state) == {"batch_stats"}
    changed = jax.tree.map(
        lambda a, b: (np.asarray(a) != b).all(),
        state["batch_stats"],
        variables["batch_stats"],
    )
    assert len(jax.tree.leaves(changed)) > 20 and all(jax.tree.leaves(changed))


def test_evaluation_mode_leaves_batch_statistics_alone(tiny):
    backbone, variables, x, _ = tiny
    _, state = jit(backbone.apply)(variables, x)
    assert set(state) == {"batch_stats"}
    jax.tree.map(
        np.testing.assert_array_equal, state["batch_stats"], variables["batch_stats"]
    )


def test_running_statistics_take_a_tenth_of_the_batch(tiny):
    _, variables, x, _ = tiny
    state = _trained_state()
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    old = variables["batch_stats"]["stem"]["bn"]
    new = state["batch_stats"]["stem"]["bn"]
    mean = 0.9 * old["mean"] + 0.1 * y.mean((0, 1, 2))
    var = 0.9 * old["var"] + 0.1 * y.var((0, 1, 2))
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new["var"], var, rtol=1e-4)


def test_evaluation_of_a_sample_does_not_depend_on_its_batch(tiny):
    _, variables, x, apply = tiny
    alone = apply(variables, x[:1])
    together = apply(variables, x)[:, :1]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_bfloat16_computes_low_and_keeps_parameters_and_logits_float32(tiny):
    _, variables, x, apply = tiny
    backbone = backbones.build(**TINY, dtype="bfloat16")
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), x)
    assert jax.tree.structure(shapes) == jax.tree.structure(variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    assert jax.eval_shape(backbone.stem, variables, x).dtype == jnp.bfloat16
    logits, _ = jit(backbone.apply)(variables, x)
    assert logits.dtype == jnp.float32
    expected = np.asarray(apply(variables, x))
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    _, state = jax.eval_shape(
        functools.partial(backbone.apply, train=True), variables, x
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_part_params_partitions_the_parameters(built):
    backbone, variables, _, _ = built
    parts = backbone.part_params(variables)
    assert set(parts) == {"stem", "stages", "heads"}
    assert len(parts["stages"]) == len(parts["heads"]) == backbone.num_exits
    found = sorted(id(leaf) for leaf in jax.tree.leaves(parts))
    assert found == sorted(id(leaf) for leaf in jax.tree.leaves(variables["params"]))


def test_init_is_drawn_from_the_key_within_the_fan_in_bound(key):
    backbone = backbones.build(
        "cifar_resnet", num_classes=3, depth=8, width=2, exits=(), head="linear"
    )
    x = jnp.zeros((1, 4, 4, 3))
    init = jit(backbone.init)
    key_other = jax.random.fold_in(key, 1)
    one, same, other = init(key, x), init(key, x), init(key_other, x)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernel = one["params"]["stages_0"]["blocks_2"]["conv2"]["kernel"]
    bound = (3 * 3 * 8) ** -0.5
    assert 0.9 * bound < jnp.abs(kernel).max() <= bound
    assert jnp.abs(one["params"]["heads_0"]["linear"]["bias"]).max() <= 8**-0.5
    assert (kernel != other["params"]["stages_0"]["blocks_2"]["conv2"]["kernel"]).any()
