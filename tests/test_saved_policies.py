"""A saved fit on other predictions: costs, guarantees, and what does not fit."""

import dataclasses

import jax
import numpy as np
import pytest

from eenet_jax import evaluation, schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import lagrangian


def make(num_classes: int, costs: list[float], unit: str) -> Predictions:
    rng = np.random.default_rng(num_classes)
    labels = rng.integers(0, num_classes, 600).astype(np.int32)
    logits = rng.normal(size=(len(costs), 600, num_classes)).astype(np.float32)
    logits[:, np.arange(600), labels] += np.linspace(1, 3, len(costs))[:, None]
    split = Split(logits, labels)
    return Predictions(split, split, np.array(costs), unit)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A fit in milliseconds, with samples held out."""
    path = tmp_path_factory.mktemp("policies") / "msdnet.npz"
    given = make(4, [0.01, 0.02, 0.04], "ms")
    fitted = schedulers.fit("msdnet", given, key=jax.random.key(0), calibration=0.5)
    fitted.save(path)
    schedulers.save_policy(path.with_name("one.npz"), fitted.for_budget(0.02))
    return path


def test_budgets_are_in_the_unit_of_the_predictions(saved) -> None:
    here = make(4, [1.0, 2.0, 3.0], "mflops")
    budgets = np.array([1.0, 1.5, 2.0, 3.0])
    found = evaluation.apply_saved(saved, budgets, here)
    assert all(record["met"] for record in found["records"])
    costs = [record["val_cost"] for record in found["records"]]
    assert costs[0] == 1.0 and 1.3 < costs[1] <= 1.5 and costs == sorted(costs)


def test_guarantees_need_held_out_samples(saved) -> None:
    here = make(4, [0.01, 0.02, 0.04], "ms")
    budgets = np.array([0.02])
    plain = evaluation.apply_saved(saved, budgets, here)["records"][0]
    safe = evaluation.apply_saved(saved, budgets, here, confidence=0.95)["records"][0]
    assert safe["val_cost"] < plain["val_cost"]
    dropped = evaluation.apply_saved(saved, budgets, here, max_drop=0.2)
    assert dropped["records"][0]["max_drop"] == 0.2
    blocks = dataclasses.replace(here, samples_per_image=4)
    with pytest.raises(UserError, match="confidence=0.95 is for independent samples"):
        evaluation.apply_saved(saved, budgets, blocks, confidence=0.95)
    with pytest.raises(UserError, match="holds one policy"):
        evaluation.apply_saved(
            saved.with_name("one.npz"), budgets, here, confidence=0.95
        )


@pytest.mark.slow
def test_other_exits_or_classes_are_refused(saved, tmp_path, key) -> None:
    recipe = lagrangian.Recipe(prices=4, units=4, folds=2, ridges=(10.0,), steps=20)
    fitted = lagrangian.fit(
        make(5, [1.0, 2.0], "ms"), budgets=None, key=key, recipe=recipe
    )
    fitted.save(tmp_path / "lagrangian.npz")
    budgets = np.array([2.0])
    with pytest.raises(UserError, match="fitted for 5 classes, the predictions have 7"):
        evaluation.apply_saved(
            tmp_path / "lagrangian.npz", budgets, make(7, [1.0, 2.0], "ms")
        )
    with pytest.raises(UserError, match="3 exits, the predictions 2"):
        evaluation.apply_saved(saved, budgets, make(4, [1.0, 2.0], "ms"))
    weights = np.zeros((2, 5 + 2 + 2), np.float32)
    policy = dataclasses.replace(
        fitted.policy(0),
        scorer="eenet_linear",
        params={"weights": weights, "bias": np.zeros(2, np.float32)},
    )
    assert policy.num_classes == 5
