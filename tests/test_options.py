"""Reading --budgets and --scheduler."""

import dataclasses

import numpy as np
import pytest

from eenet_jax import options, schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split

COSTS = np.array([1.0, 2.0, 4.0])


@pytest.fixture
def predictions() -> Predictions:
    split = Split(np.zeros((3, 5, 4), np.float32), np.zeros(5, np.int32))
    return Predictions(split, split, COSTS)


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("auto", np.linspace(1, 4, 20)),
        ("2", [2]),
        ("3,1.5,3", [1.5, 3]),
        ("1:3:5", [1, 1.5, 2, 2.5, 3]),
        ("2.5:4:1", [2.5]),
    ],
)
def test_parse_budgets(text, budgets) -> None:
    np.testing.assert_allclose(options.parse_budgets(text, COSTS), budgets)


@pytest.mark.parametrize(
    "text", ["abc", "", "1,", "1:2", "1:2:0", "1:2:x", "1:2:2.5", "nan", "1,inf"]
)
def test_parse_budgets_names_the_flag_and_what_it_takes(text) -> None:
    with pytest.raises(UserError, match=rf"--budgets={text} is not.*auto.*lo:hi:n"):
        options.parse_budgets(text, COSTS)


def test_parse_speedups(predictions) -> None:
    heads = dataclasses.replace(predictions, head_costs=np.full(len(COSTS), 0.2))
    full = COSTS[-1] - 0.2 * (len(COSTS) - 1)  # the network without early heads
    found = options.parse_speedups("2,1", heads)
    np.testing.assert_allclose(found, [full / 2, full])
    with pytest.raises(UserError, match=f"=9 must be .* from 1 to {full:.3g}, which"):
        options.parse_speedups("9", heads)


def test_parse_schedulers(predictions) -> None:
    names, left_out = options.parse_schedulers("all", predictions)
    assert {*names, *left_out} == set(schedulers.SCHEDULERS)
    chosen = options.parse_schedulers("eenet,msdnet,eenet", predictions)
    assert chosen == (["eenet", "msdnet"], {})
    names, left_out = options.parse_schedulers("all", predictions, ensemble=True)
    assert "predictive_exit" not in names
    assert left_out["predictive_exit"].endswith("--ensemble takes the mean of")
    with pytest.raises(UserError, match="'eenett' is unknown.*Did you mean 'eenet'"):
        options.parse_schedulers("msdnet,eenett", predictions)


def test_schedulers_that_lack_something(predictions, monkeypatch) -> None:
    def missing(name, *_):
        return "val_features" if name == "eenet" else None

    monkeypatch.setattr(schedulers, "missing_evidence", missing)
    names, left_out = options.parse_schedulers("all", predictions)
    assert "eenet" not in names and "msdnet" in names
    assert left_out == {"eenet": "val_features"}
    with pytest.raises(UserError, match="eenet needs val_features$"):
        options.parse_schedulers("eenet", predictions)
