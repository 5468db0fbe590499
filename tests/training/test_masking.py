"""Confidence masks on a trained network of maps: counts, choice, command."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones, distributed, masking, trained
from eenet_jax import config as config_lib
from eenet_jax.backbones import hrnet
from eenet_jax.costs import exit_mflops
from eenet_jax.data import inputs
from eenet_jax.errors import UserError
from eenet_jax.map_inference import confusion
from eenet_jax.training.plan import build_plan
from tests import maps


def _counts(right: int, mflops: float) -> masking.Counts:
    confusion = np.array([[[[right, 10 - right], [0, 10]]]] * 2)
    return masking.Counts(confusion, np.array([[1.0], [mflops]]))


def test_the_cheapest_that_is_good_enough_is_chosen():
    val = [_counts(5, 2.0), _counts(10, 4.0), _counts(10, 6.0), _counts(10, 8.0)]
    found = masking.summarise(val, val[::-1], [0.5, 0.8, 0.9, 1.0], 0.003)
    assert found["chosen"] == 1
    assert found["val"]["saved"] == [0.75, 0.5, 0.25, 0.0]
    assert found["val"]["miou"][0] == pytest.approx((5 / 10 + 10 / 15) / 2)
    wide = masking.summarise(val, val, [0.5, 0.8, 0.9, 1.0], 0.9)
    assert wide["chosen"] == 0


def test_thresholds_are_probabilities(root):
    for given in ("1.0", "x", "0"):
        done = subprocess.run(
            [sys.executable, "-m", "eenet_jax.pixel_masks", "--workdir=absent"]
            + [f"--thresholds={given}"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"--thresholds={given} must be probabilities" in done.stderr


def test_classes_have_no_masks():
    backbone = backbones.build("resnet20", num_classes=10)
    with pytest.raises(UserError, match="answers with a class; masks are for maps"):
        masking.check(backbone)
    backbone = backbones.build("hrnet_w18s", num_classes=3, mask="entropy")
    with pytest.raises(UserError, match="mask='entropy', and thresholds here are pro"):
        masking.check(backbone)
    masking.check(backbones.build("hrnet_w18s", num_classes=3, mask="confidence"))


@pytest.mark.slow
def test_what_masks_leave_out_is_counted(small_config, tmp_path, monkeypatch):
    few = hrnet.Size(1, ((1, 1), (1, 1), (1, 1)), 18, 64)  # blocks
    monkeypatch.setitem(hrnet.SIZES, "w18s", few)
    run = _untrained(small_config, tmp_path)
    part = run.dataset.val
    nothing, low, none = masking.count(run, part, [1e-9, 0.5, 1.0])
    # Nothing is decided at 1: the network as it is, at what it costs.
    apply = jax.jit(lambda v, x: run.backbone.apply(v, x)[0])
    whole = apply(run.variables, _shown(run.dataset, part))
    np.testing.assert_array_equal(none.confusion, confusion(whole, part.labels))
    costs = exit_mflops(run.backbone, run.variables, run.example()).costs
    for counts in (low, none):
        np.testing.assert_allclose(counts.mflops[0], costs[0])
    np.testing.assert_allclose(none.mflops[-1], costs[-1])
    assert (low.mflops[-1] < costs[-1]).all()
    # Where all is decided at the first exit, the others say the same.
    for k in range(4):
        np.testing.assert_array_equal(nothing.confusion[k], none.confusion[0])


@pytest.mark.slow
def test_masked_networks_train(small_config, tmp_path):
    config = _config(small_config, tmp_path)
    config.model.options.mask = "confidence"
    plan = build_plan(config, config_lib.load_data(config), distributed.data_mesh())
    state = jax.eval_shape(plan.init, jax.random.key(0))
    call = next(iter(plan.feed.calls(0, 0, 1, 1)))
    after, metrics = jax.eval_shape(
        lambda s, c: plan.run_chunk(s, *c, key=jax.random.key(0)), state, call
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["correct"].shape == (1, 4)


def _config(small_config, folder):
    maps.write_npz(folder / "data.npz")
    config = maps.config(
        small_config,
        folder / "data.npz",
        model__name="hrnet_w18s",
        loss__exit_weights=(1.0,) * 4,
    )
    sizes = {"width": 4, "stem_width": 8, "head_width": 8}
    config.model.options = {"init": "he", **sizes}
    return config


def _untrained(small_config, folder):
    """A run of a narrow HRNet as it begins."""
    config = _config(small_config, folder)
    dataset = config_lib.load_data(config)
    backbone = config_lib.build_backbone(config, num_classes=3)
    x = inputs.example(dataset)
    variables = jax.jit(backbone.init)(jax.random.key(0), jnp.zeros(x.shape))
    return trained.Trained(config, backbone, variables, dataset, 0, folder)


def _shown(dataset, part):
    return inputs.prepare_eval(dataset)(part.images)
