"""MSDNet: maps, exits, classifiers, initialisation, refusals."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.backbones import msdnet
from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

TINY = {"num_blocks": 3, "base": 2, "step": 2, "channels": 4, "growth": 2}
TINY |= {"scales": 2, "growth_factors": (1, 2), "bottleneck_factors": (1, 2)}


def _backbone(builder, num_classes=5, **options) -> Backbone:
    module = builder(num_classes, **options)
    return Backbone("msdnet", len(module.stages), num_classes, "float32", module)


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _walk(module, x):
    """Shapes of the variables, of every carry and of every exit's logits."""

    def run(module, x):
        carries, logits = [module.run_stem(x)], []
        for k in range(len(module.stages)):
            carries.append(module.run_stage(k, carries[-1]))
            logits.append(module.run_head(k, carries[-1]))
        return carries, logits

    init = functools.partial(module.init_with_output, method=run)
    (carries, logits), variables = jax.eval_shape(init, jax.random.key(0), x)
    return variables, carries, logits


def _variables(backbone, rng):
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

    return jax.tree_util.tree_map_with_path(draw, _shapes(backbone))


@pytest.mark.parametrize(
    ("scales", "prune", "step_mode"),
    [
        (2, "max", "even"),
        (2, "min", "linear"),
        (3, "max", "linear"),
        (3, "min", "even"),
        (4, "max", "even"),
        (4, "min", "linear"),
    ],
)
def test_maps_are_as_planned(scales, prune, step_mode):
    factors = (1, 2, 4, 4)[:scales]
    options = {"prune": prune, "step_mode": step_mode, "scales": scales, "step": 1}
    options |= {"growth_factors": factors, "bottleneck_factors": factors}
    module = msdnet.msdnet(5, **{**TINY, **options}, stem="tiny_imagenet")
    _, carries, logits = _walk(module, jnp.zeros((2, 80, 96, 3)))
    assert [z.shape for z in logits] == [(2, 5)] * 3
    sides = [(40 // 2**s, 48 // 2**s) for s in range(scales)]
    widths = [4 * factor for factor in factors]
    for carry, stage in zip(carries, (None, *module.stages), strict=True):
        if stage is not None:
            last = stage.blocks[-1].plan
            if isinstance(stage.blocks[-1], msdnet.Layer):
                kept = factors[-len(last.scales) :]
                widths = [(last.base + 2) * factor for factor in kept]
            else:
                widths = list(last.widths)
        assert [m.shape[-1] for m in carry] == widths
        assert [m.shape[:3] for m in carry] == [(2, *s) for s in sides[-len(carry) :]]
    assert len(carries[0]) == scales and len(carries[-1]) == 1


def test_cifar_msdnet_has_five_exits_and_classifiers_of_width_128():
    backbone = _backbone(msdnet.cifar_msdnet, 100)
    assert backbone.num_exits == 5 and backbone.example().shape == (1, 32, 32, 3)
    shapes = _shapes(backbone)
    for k, channels in enumerate((160, 116, 164, 116, 164)):
        head = shapes["params"][f"heads_{k}"]
        assert head["conv_0"]["conv"]["kernel"].shape == (3, 3, channels, 128)
        assert head["conv_1"]["conv"]["kernel"].shape == (3, 3, 128, 128)
        assert head["linear"]["kernel"].shape == (128, 100)


@functools.cache
def _tiny():
    backbone, rng = _backbone(msdnet.cifar_msdnet, **TINY), np.random.default_rng(7)
    x = jnp.asarray(rng.standard_normal((2, 12, 12, 3)), jnp.float32)
    apply = jit(lambda variables, x: backbone.apply(variables, x)[0])
    return backbone, _variables(backbone, rng), x, apply


@pytest.mark.slow
def test_an_exit_ignores_later_stages_and_heads():
    backbone, variables, x, apply = _tiny()
    before = np.asarray(apply(variables, x))
    assert before.shape == (3, 2, 5) and np.isfinite(before).all()
    for k in range(2):
        later = [f"{part}_{j}" for part in ("stages", "heads") for j in range(k + 1, 3)]
        params = {
            name: jax.tree.map(lambda leaf: leaf + 0.3, tree) if name in later else tree
            for name, tree in variables["params"].items()
        }
        after = np.asarray(apply({**variables, "params": params}, x))
        np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
        assert (after[k + 1 :] != before[k + 1 :]).any(axis=(1, 2)).all()


def test_a_gate_reads_the_coarsest_map():
    backbone, variables, x, _ = _tiny()
    carry = (x, x[:, ::2, ::2])
    assert backbone.exit_features(0, variables, carry) is carry[1]


def test_maps_of_other_sizes_need_no_other_classifier():
    head = msdnet.Classifier(3, 4, "torch", jnp.float32)
    x = jnp.zeros((2, 8, 8, 6))
    shapes = jax.eval_shape(head.init, jax.random.key(0), (x,))
    for size in (5, 16, 23):
        x = jnp.zeros((2, size, size, 6))
        assert jax.eval_shape(head.apply, shapes, (x,)).shape == (2, 3)


def test_initialisations(key):
    def kernels(init):
        stem = msdnet.Stem("imagenet", (16, 32), init, jnp.float32)
        params = jit(stem.init)(key, jnp.zeros((1, 40, 40, 3)))["params"]
        bias = params["scale_0"]["conv"]["bias"]
        assert 0.5 * 147**-0.5 < jnp.abs(bias).max() <= 147**-0.5
        return params["scale_0"]["conv"]["kernel"], params["scale_1"]["conv"]["kernel"]

    for kernel, fan_in in zip(kernels("torch"), (147, 144), strict=True):
        assert 0.95 * fan_in**-0.5 < jnp.abs(kernel).max() <= fan_in**-0.5
    for kernel, fan_out in zip(kernels("msdnet"), (49 * 16, 9 * 32), strict=True):
        sd = math.sqrt(2 / fan_out)
        np.testing.assert_allclose(kernel.std(), sd, rtol=0.05)
        assert jnp.abs(kernel).max() > 2.5 * sd  # not truncated


def test_bfloat16_computes_low_and_keeps_parameters_and_logits_float32():
    module = msdnet.cifar_msdnet(5, **TINY, dtype="bfloat16")
    variables, carries, logits = _walk(module, jnp.zeros((1, 16, 16, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(carries)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in logits} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "mnist"}, r"options\.stem='mnist' is unknown; .*'cifar'"),
        ({"init": "he"}, r"options\.init='he' is unknown; .*'torch', 'msdnet'"),
        ({"exits": (1, 5)}, r"model\.exits=\(1, 5\): no exit can be at 5"),
        ({"scales": 2}, r"options\.growth_factors=.* has 3 entries"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        msdnet.msdnet(10, **options)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (64, 16)])
def test_images_too_small_for_the_scales_are_refused(height, width, key):
    backbone = _backbone(msdnet.cifar_msdnet)
    x = jnp.zeros((1, height, width, 3))
    with pytest.raises(UserError) as caught:
        jax.eval_shape(backbone.init, key, x)
    assert f"scales=3 leaves {height // 4}x{width // 4} maps" in str(caught.value)
    assert f"of {height}x{width} images, but the classifiers need 5x5" in str(
        caught.value
    )
