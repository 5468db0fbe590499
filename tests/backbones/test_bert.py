"""BERT with exits: sizes, arithmetic, masks, bfloat16, dropout, refusals."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.backbones import bert
from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.flops import count_macs, exit_mflops
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TINY = {
    "num_layers": 2,
    "hidden": 16,
    "num_heads": 2,
    "intermediate": 24,
    "vocab_size": 30,
    "max_positions": 12,
}


def _backbone(module) -> Backbone:
    return Backbone("bert", len(module.heads), 3, "float32", module)


def _text(batch=1, length=8):
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    return {"ids": ids, "mask": ids}


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), _text())


@functools.cache
def _tiny(dropout=0.1):
    """Backbone with lively variables, three texts, the jitted logits of evaluation."""
    backbone = _backbone(bert.bert(3, **TINY, dropout=dropout))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        value = 1 + 0.2 * noise if path[-1].key == "scale" else 0.3 * noise
        return jnp.asarray(value, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, _shapes(backbone))
    mask = (np.arange(8) < np.array([[5], [8], [5]])).astype(np.int32)
    x = {"ids": jnp.asarray(rng.integers(1, 30, (3, 8)) * mask), "mask": mask}
    return backbone, variables, x, jit(lambda v, x: backbone.apply(v, x)[0])


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (bert.bert_4(2), 111_260_168),
        (bert.bert_4(4), 111_266_320),
        # all-MiniLM-L6-v2 with its pooler, and a classifier.
        (bert.minilm(2, exits=()), 22_713_216 + 2 * 385),
    ],
)
def test_parameter_counts_are_the_published_ones(module, count):
    leaves = jax.tree.leaves(_shapes(_backbone(module)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


def test_arithmetic_follows_the_formula():
    backbone = _backbone(bert.bert_4(2))
    shapes, head = _shapes(backbone), 589_824 + 768 * 2
    for length in (8, 24):
        layer = length * 7_077_888 + 2 * length**2 * 768
        found = exit_mflops(backbone, shapes, _text(1, length))
        expected = 2e-6 * (3 * layer + head) * np.arange(1, 5)
        np.testing.assert_allclose(found.costs, expected, rtol=1e-12)
        np.testing.assert_allclose(found.head_costs, [2e-6 * head] * 4, rtol=1e-12)
    assert count_macs(backbone.stem, shapes, _text()) == 0


def test_default_exits_are_quarters_or_thirds():
    def stage_lengths(module):
        return [len(stage.layers) for stage in module.stages]

    assert stage_lengths(bert.bert_4(2)) == [3, 3, 3, 3]
    assert stage_lengths(bert.minilm(2)) == [2, 2, 2]
    rounded = {12: [3, 3, 3, 3], 6: [2, 2, 2], 5: [2, 1, 2], 2: [1, 1], 1: [1]}
    for num_layers, expected in rounded.items():
        module = bert.bert(2, **{**TINY, "num_layers": num_layers})
        assert stage_lengths(module) == expected


def test_a_padded_text_gives_what_it_gives_alone():
    _, variables, x, apply = _tiny()
    ids = x["ids"][::2, :5]
    alone = apply(variables, {"ids": ids, "mask": np.ones_like(ids)})
    together = np.asarray(apply(variables, x))[:, ::2]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_nothing_under_the_padding_matters_and_all_else_does():
    _, variables, x, apply = _tiny()
    before = np.asarray(apply(variables, x))
    other = jnp.where(x["mask"] == 1, x["ids"], 7)
    np.testing.assert_array_equal(apply(variables, {**x, "ids": other}), before)
    other = x["ids"].at[:, 2].add(1)
    after = np.asarray(apply(variables, {**x, "ids": other}))
    assert (np.abs(after - before).max(axis=(0, 2)) > 1e-3).all()


def test_masks_may_be_of_any_type():
    backbone, variables, x, _ = _tiny()
    for dtype in (bool, np.int8, np.float32):
        carry = backbone.stem(variables, {**x, "mask": x["mask"].astype(dtype)})
        assert carry["mask"].dtype == bool
        np.testing.assert_array_equal(carry["mask"], x["mask"] == 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_of_padding_alone_gives_finite_logits_and_gradients(dtype):
    _, variables, x, apply = _tiny()
    backbone = _backbone(bert.bert(3, **TINY | {"num_layers": 1}, dtype=dtype))
    params = {part: variables["params"][part] for part in _shapes(backbone)["params"]}
    padded = {"ids": x["ids"].at[1].set(0), "mask": x["mask"] * [[1], [0], [1]]}

    def loss(variables):
        logits, _ = backbone.apply(variables, padded)
        return -jnp.mean(jax.nn.log_softmax(logits)[..., 0]), logits

    run = jit(jax.value_and_grad(loss, has_aux=True))
    (_, logits), grads = run({"params": params})
    assert np.isfinite(logits).all()
    for leaf in jax.tree.leaves(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    if dtype == "float32":
        expected = np.asarray(apply(variables, x))[0, ::2]
        np.testing.assert_allclose(logits[0, ::2], expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_close_with_softmax_in_float32():
    _, variables, x, apply = _tiny()
    backbone = _backbone(bert.bert(3, **TINY, dtype="bfloat16"))
    assert {v.dtype for v in jax.tree.leaves(_shapes(backbone))} == {np.dtype("f4")}
    carry = jax.eval_shape(backbone.stem, variables, x)
    assert carry["hidden"].dtype == jnp.bfloat16
    stage = functools.partial(backbone.stage, 0)
    assert jax.eval_shape(stage, variables, carry)["hidden"].dtype == jnp.bfloat16
    carry = jax.eval_shape(backbone.stem, variables, _text(3, 7))
    text = str(jax.make_jaxpr(stage)(variables, carry))
    assert re.search(r":f32\[3,2,7,7\] = dot_general", text)
    assert re.search(r":f32\[3,2,7,7\] = exp ", text)
    assert not re.search(r":bf16\[3,2,7,7\] = (exp|div|dot_general)", text)
    logits, expected = jit(backbone.apply)(variables, x)[0], apply(variables, x)
    assert logits.dtype == jnp.float32
    assert 0 < jnp.abs(logits - expected).max() < 0.05 * jnp.abs(expected).max()


def test_the_staged_view_folds_and_may_drop_rows():
    backbone, variables, x, apply = _tiny()
    keep = jnp.array([2, 0])

    @jit
    def run(variables, x):
        carry = backbone.stage(0, variables, backbone.stem(variables, x))
        first = backbone.head(0, variables, carry)
        carry = jax.tree.map(lambda leaf: leaf[keep], carry)
        carry = backbone.stage(1, variables, carry)
        features = backbone.exit_features(1, variables, carry)
        return first, backbone.head(1, variables, carry), features, carry

    first, second, features, carry = run(variables, x)
    whole = apply(variables, x)
    np.testing.assert_allclose(first, whole[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(second, whole[1, keep], rtol=1e-5, atol=1e-5)
    assert set(carry) == {"hidden", "mask"} and carry["hidden"].shape == (2, 8, 16)
    np.testing.assert_array_equal(features, carry["hidden"][:, 0])


def test_an_exit_ignores_later_stages_and_heads():
    _, variables, x, apply = _tiny()
    params = {
        part: jax.tree.map(lambda leaf: leaf + 0.3, tree) if "_1" in part else tree
        for part, tree in variables["params"].items()
    }
    before, after = apply(variables, x), apply({"params": params}, x)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()


def test_dropout_is_drawn_from_its_key_in_training_alone(key):
    backbone, variables, x, apply = _tiny()

    train = jit(lambda k: backbone.apply(variables, x, train=True, rngs={"dropout": k}))
    (one, state), (same, _) = train(key), train(key)
    other, _ = train(jax.random.fold_in(key, 1))
    assert state == {}
    np.testing.assert_array_equal(one, same)
    assert (one != other).any(axis=(1, 2)).all()
    assert (one != apply(variables, x)).any(axis=(1, 2)).all()


def test_without_dropout_training_computes_what_evaluation_does():
    backbone, variables, x, _ = _tiny(dropout=0.0)

    def program(train):
        apply = functools.partial(backbone.apply, train=train)
        return str(jax.make_jaxpr(apply)(variables, x))

    assert program(True) == program(False)


def test_every_part_has_its_dropout(key):
    backbone, variables, x, _ = _tiny(dropout=0.5)
    module, params = backbone.module, variables["params"]
    carry = backbone.stem(variables, x)
    attention = bert.SelfAttention(module.stages[0].layers[0].spec, "float32")
    own = {"params": params["stages_0"]["layers_0"]["attention"]}

    def parts(train, rngs):
        apply = functools.partial(module.apply, variables, rngs=rngs)
        return (
            apply(x, train, method="run_stem")["hidden"],
            attention.apply(own, *carry.values(), train, rngs=rngs),
            apply(0, carry, train, method="run_head"),
        )

    dropped, plain = jit(lambda k: (parts(True, {"dropout": k}), parts(False, None)))(
        key
    )
    for one, other in zip(dropped, plain, strict=True):
        assert (one != other).any()
    assert 0.4 < (dropped[0] == 0).mean() < 0.6


def test_init_is_a_truncated_normal_with_zero_biases(key):
    backbone = _backbone(bert.bert(3, **{**TINY, "hidden": 32, "num_layers": 1}))
    x = {"ids": jnp.zeros((1, 2), jnp.int32), "mask": jnp.ones((1, 2))}
    params = jit(backbone.init)(key, x)["params"]
    drawn = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kind = path[-1].key
        if kind in ("kernel", "embedding"):
            drawn.append(np.ravel(leaf))
        else:
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, kind == "scale"))
    drawn = np.concatenate(drawn)
    assert 0.039 < np.abs(drawn).max() <= 0.04
    # A normal cut at two deviations keeps 0.8796 of its own.
    np.testing.assert_allclose(drawn.std(), 0.02 * 0.8796, rtol=0.02)
    np.testing.assert_allclose(drawn.mean(), 0, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_heads": 3},
            r"model.options.hidden=16 must be a multiple of .*num_heads=3",
        ),
        ({"vocab_size": 0}, "model.options.vocab_size=0 must be at least 1"),
        ({"num_layers": 0}, "model.options.num_layers=0 must be at least 1"),
        ({"dropout": 1.0}, r"model.options.dropout=1.0 must be in \[0, 1\)"),
        ({"exits": (2,)}, r"model.exits=\(2,\): no exit can be at 2"),
        ({"exits": (0, 1)}, "no exit can be at 0; .* layer counts from 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        bert.bert(3, **{**TINY, **options})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 4, 4, 3)), 'x must be {"ids"'),
        ({"ids": np.zeros((1, 4), np.int32)}, 'x must be {"ids"'),
        ({"ids": np.zeros((1, 4)), "mask": np.ones((1, 4))}, "it must be integers"),
        (
            {"ids": np.zeros(4, np.int32), "mask": np.ones(4)},
            r"must be integers \[B, T",
        ),
        (
            {"ids": np.zeros((1, 4), np.int32), "mask": np.ones((1, 3))},
            r'"mask"\] has shape \[1, 3\]; it must have that of x\["ids"\], \[1, 4\]',
        ),
        (
            {"ids": np.zeros((1, 13), np.int32), "mask": np.ones((1, 13))},
            "13 tokens a text, above max_positions=12; truncate",
        ),
    ],
)
def test_inputs_that_are_no_texts_are_refused(x, message):
    backbone, variables, _, _ = _tiny()
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda v: backbone.apply(v, x), variables)
