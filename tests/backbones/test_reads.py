"""Heads on kept features: reading the part they need gives the same logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RESNET = {"depth": 8, "width": 4}
MSDNET = {"num_blocks": 2, "channels": 4, "growth": 2}
BERT = {
    "num_layers": 2,
    "hidden": 8,
    "num_heads": 2,
    "intermediate": 16,
    "vocab_size": 11,
    "dropout": 0.0,
}
MEAN = {**BERT, "pool": "mean"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("bert", BERT, marks=pytest.mark.slow),
        ("bert", MEAN),
        pytest.param("cifar_msdnet", MSDNET, marks=pytest.mark.slow),
    ],
)
def test_heads_read_all_they_need(name, options):
    backbone = backbones.build(name, num_classes=3, **options)
    rng = np.random.default_rng(0)
    x = backbone.example(4)
    if backbone.input_kind == "text":
        x["ids"] = rng.integers(0, 11, x["ids"].shape)
        x["mask"] = np.arange(8)[None] < np.array([8, 3, 1, 5])[:, None]
    else:
        x = rng.standard_normal(x.shape).astype(np.float32)
    variables = jit(backbone.init)(jax.random.key(0), x)

    def both(variables, x):
        seen = backbone.head_inputs(variables, x)
        logits = [backbone.head(k, variables, carry) for k, carry in enumerate(seen)]
        return seen, jnp.stack(logits), backbone.apply(variables, x)[0]

    seen, logits, expected = jit(both)(variables, x)
    assert len(seen) == backbone.num_exits
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    size = sum(leaf.size for leaf in jax.tree.leaves(seen))
    carry = jax.eval_shape(backbone.stem, variables, x)
    whole = sum(leaf.size for leaf in jax.tree.leaves(carry))
    assert size < whole * backbone.num_exits / 2


def test_training_heads_changes_only_their_own_statistics():
    backbone = backbones.build("cifar_resnet", num_classes=3, **RESNET)
    x = np.random.default_rng(0).standard_normal((8, 16, 16, 3)).astype(np.float32)
    variables = jit(backbone.init)(jax.random.key(0), x)
    seen = jit(backbone.head_inputs)(variables, x)[:1]
    logits, state = jit(backbone.train_heads)(variables, seen)
    assert logits.shape == (1, 8, 3)
    before, after = variables["batch_stats"], state["batch_stats"]
    assert before.keys() == after.keys()
    for part in before:
        same = jax.tree.map(np.array_equal, before[part], after[part])
        assert all(jax.tree.leaves(same)) == (part != "heads_0"), part
