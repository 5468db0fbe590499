"""A stage gets the variables that it reads, and no others."""

import jax
import numpy as np

from eenet_jax import backbones
from eenet_jax.runtime.stage_variables import stage_variables


def test_stages_run_on_what_they_read_and_share_it_out(network):
    backbone, variables, x, _ = network
    parts = stage_variables(backbone, variables, x)
    carry, whole = (backbone.stem(v, x) for v in (parts[0], variables))
    for k, part in enumerate(parts):
        carry, whole = (
            backbone.stage(k, part, carry),
            backbone.stage(k, variables, whole),
        )
        np.testing.assert_array_equal(
            backbone.head(k, part, carry), backbone.head(k, variables, whole)
        )
    paths = [paths_of(part) for part in parts]
    assert set.union(*paths) == paths_of(variables)
    assert not set.intersection(*paths)


def test_a_head_that_two_exits_share_goes_to_both():
    backbone = backbones.build("predictive_vgg19", num_classes=10)
    variables = jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())
    first, second, *_ = stage_variables(backbone, variables, backbone.example())
    shared = {path for path in paths_of(first) & paths_of(second) if "heads_" in path}
    assert shared


def paths_of(variables):
    """Returns the names of all arrays."""
    return {
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(variables)
    }
