"""Bilinear enlarging: by hand, against JAX's, without multiply-adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eenet_jax.backbones.resize import enlarge
from eenet_jax.costs.flops import count_macs


def test_a_row_by_hand():
    x = jnp.array([0.0, 1.0, 3.0]).reshape(1, 1, 3, 1)
    doubled = enlarge(x, (1, 6))[0, 0, :, 0]
    np.testing.assert_allclose(doubled, [0, 0.25, 0.75, 1.5, 2.5, 3], rtol=1e-6)
    # Pixel i of 4 lies at 0.75 i - 0.125, at first clipped to 0.
    other = enlarge(x, (1, 4))[0, 0, :, 0]
    np.testing.assert_allclose(other, [0, 0.625, 1.75, 3], rtol=1e-6)


@pytest.mark.parametrize("size", [(3, 5), (6, 40), (12, 11), (5, 10), (23, 37), (3, 7)])
def test_it_is_bilinear_resizing(size):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4)), jnp.float32)
    expected = jax.image.resize(x, (2, *size, 4), "bilinear", antialias=False)
    np.testing.assert_allclose(enlarge(x, size), expected, rtol=0, atol=1e-5)
    assert count_macs(lambda x: enlarge(x, size), x) == 0
    assert enlarge(x.astype(jnp.bfloat16), size).dtype == jnp.bfloat16
    check_grads(lambda x: enlarge(x, size), (x,), order=1, atol=1e-2, rtol=1e-2)


def test_it_does_not_shrink():
    with pytest.raises(ValueError, match=r"cannot enlarge \(4, 4\) maps to \(4, 3\)"):
        enlarge(jnp.zeros((1, 4, 4, 1)), (4, 3))
