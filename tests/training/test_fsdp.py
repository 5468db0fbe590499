"""Parameters cut over the devices: where they lie, and that the run is the same."""

import jax
import numpy as np
import pytest

from eenet_jax import distributed
from eenet_jax.training import loop


def test_arrays_are_cut_along_their_longest_even_axis():
    mesh = distributed.data_mesh()  # eight devices
    shapes = {
        "matrix": (16, 64),
        "convolution": (3, 3, 8, 12),
        "odd": (7, 9),
        "vector": (64,),
        "number": (),
    }
    shapes = {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in shapes.items()}
    specs = {
        name: tuple(s.spec) for name, s in distributed.spread(shapes, mesh).items()
    }
    assert specs == {
        "matrix": (None, "data"),
        "convolution": (None, None, "data"),
        "odd": (),
        "vector": (),
        "number": (),
    }


@pytest.mark.slow
def test_a_run_with_parameters_cut_over_devices_is_the_same(small_config, tmp_path):
    fields = {"train__max_steps": 4, "model__options__width": 8}
    whole = loop.train(small_config(**fields), tmp_path / "whole")
    config = small_config(train__fsdp=True, **fields)
    cut = loop.train(config, tmp_path / "cut")

    def close(a, b):
        atol = 1e-5 * max(1.0, np.abs(a).max())
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=atol)

    jax.tree.map(close, whole.state.variables, cut.state.variables)

    for tree in (cut.state.variables["params"], cut.state.opt_state):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim > 1]
        parts = [leaf.addressable_shards[0].data.size / leaf.size for leaf in leaves]
        assert np.mean(np.array(parts) == 1 / 8) > 0.5

    again = loop.train(config, tmp_path / "cut")  # restored as it was cut
    assert again.resumed_from == 4
    equal = jax.tree.map(np.array_equal, cut.state.variables, again.state.variables)
    assert all(jax.tree.leaves(equal))
