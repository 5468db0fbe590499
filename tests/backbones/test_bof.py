"""Bag-of-features heads against the published code's outputs and gradients.

tests/goldens/predictive_exit.npz holds the small cases of
../shared/fixtures/predictive_exit, computed by the authors' code.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.backbones import bof
from eenet_jax.errors import UserError

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SCALARS = ("a", "c", "n1", "n2")
SLOW = pytest.mark.slow
GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "predictive_exit.npz"


@pytest.fixture(
    params=["s2", *(pytest.param(case, marks=SLOW) for case in ("s0", "s1"))]
)
def golden(request):
    """One case of the published pooling; the largest is not kept here."""
    path, prefix = GOLDENS, f"bof_{request.param}_"
    if request.param == "s1":
        shared = request.getfixturevalue("shared")
        path, prefix = shared / "fixtures" / "predictive_exit" / "bof.npz", "s1_"
    with np.load(path) as file:
        keys = [key for key in file.files if key.startswith(prefix)]
        return {key.removeprefix(prefix): file[key] for key in keys}


def _params(case, prefix=""):
    kernel = case[f"{prefix}codebook.weight"].transpose(2, 3, 1, 0)
    codebook = {"kernel": kernel, "bias": case[f"{prefix}codebook.bias"]}
    return {"codebook": codebook, **{name: case[prefix + name] for name in SCALARS}}


def _close(ours, theirs):
    limit = 1e-5 * np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=limit)


def test_outputs_and_gradients_are_the_published_ones(golden):
    pooling = bof.BagOfFeatures(len(golden["codebook.bias"]), int(golden["horizon"]))

    def run(params, x):
        y = pooling.apply({"params": params}, x)
        return 0.5 * jnp.mean(y**2), y

    x = golden["input"].transpose(0, 2, 3, 1)
    (_, y), grads = jit(jax.value_and_grad(run, argnums=(0, 1), has_aux=True))(
        _params(golden), x
    )
    _close(y, golden["output"])
    expected = _params(golden, "grad_")
    jax.tree.map(_close, grads[0], expected)
    _close(grads[1].transpose(0, 3, 1, 2), golden["grad_input"])


@pytest.mark.slow
def test_scalars_start_as_published(key):
    pooling = bof.BagOfFeatures(codewords=6, horizon=3)
    params = pooling.init(key, jnp.zeros((1, 3, 3, 1)))["params"]
    scalars = {name: float(params[name][0]) for name in SCALARS}
    assert scalars == {"a": 1, "c": 0, "n1": 6, "n2": 3}


def test_bfloat16_leaves_the_shares_in_float32(key):
    pooling = bof.BagOfFeatures(codewords=6, horizon=2, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.bfloat16)
    y, _ = jax.eval_shape(pooling.init_with_output, key, x)
    assert y.dtype == jnp.float32 and y.shape == (2, 24)


def test_a_map_smaller_than_a_window_is_refused():
    with pytest.raises(UserError, match="map of 7x3 is smaller than the 4x4 windows"):
        bof.window_means(jnp.zeros((1, 7, 3, 2)), 4)


def test_heads_share_parts_of_one_name_with_the_first_that_has_them():
    parts = [
        bof.HeadParts(4, "bag0", "hidden", "linear"),
        bof.HeadParts(2, "bag1", "hidden", "linear"),
        bof.HeadParts(2, "bag1", "other", "linear"),
    ]
    heads = bof.build_heads(parts, 3)
    assert [head.linear for head in heads[1:]] == [0, 0]
    assert heads[1].hidden == 0 and heads[2].pooling == 1
    own = [heads[0].linear, heads[1].pooling, heads[2].hidden]
    assert not any(isinstance(module, int) for module in own)
    assert own[1].horizon == 2
    for head in bof.build_heads(parts, 3, share=False):
        modules = (head.pooling, head.hidden, head.linear)
        assert not any(isinstance(module, int) for module in modules)
