"""Evaluation as a library: budgets, schedulers, records and the report's files."""

import json

import jax
import numpy as np
import pytest

from eenet_jax import evaluation, schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split

COSTS = np.array([1.0, 2.0, 4.0])
KEYS = {
    "scheduler", "budget", "val_accuracy", "val_cost", "test_accuracy", "test_cost",
    "met", "thresholds", "exit_fraction", "fit_seconds",
}  # fmt: skip


def _split(seed: int, num_samples: int) -> Split:
    """Three exits, four classes; every exit is surer of the truth than the last."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_samples).astype(np.int32)
    logits = rng.normal(size=(3, num_samples, 4)).astype(np.float32)
    logits[:, np.arange(num_samples), labels] += np.array([[1.0], [2.0], [3.0]])
    return Split(logits, labels)


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return Predictions(
        _split(0, 200), _split(1, 300), COSTS, "mflops", head_costs=np.full(3, 0.25)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def results(predictions, folder):
    return evaluation.evaluate(
        predictions,
        schedulers=["msdnet", "maxprob_opt"],
        budgets=np.array([1.0, 1.9, 3.1, 9.0]),
        key=jax.random.key(0),
        policies_dir=folder / "policies",
    )


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
    np.testing.assert_allclose(evaluation.parse_budgets(text, COSTS), budgets)


@pytest.mark.parametrize(
    "text", ["abc", "", "1,", "1:2", "1:2:0", "1:2:x", "1:2:2.5", "nan", "1,inf"]
)
def test_parse_budgets_names_the_flag_and_what_it_takes(text) -> None:
    with pytest.raises(UserError, match=rf"--budgets={text} is not.*auto.*lo:hi:n"):
        evaluation.parse_budgets(text, COSTS)


def test_parse_schedulers(predictions) -> None:
    names, left_out = evaluation.parse_schedulers("all", predictions)
    assert {*names, *left_out} == set(schedulers.SCHEDULERS)
    chosen = evaluation.parse_schedulers("eenet,msdnet,eenet", predictions)
    assert chosen == (["eenet", "msdnet"], {})
    with pytest.raises(UserError, match="'eenett' is unknown.*Did you mean 'eenet'"):
        evaluation.parse_schedulers("msdnet,eenett", predictions)


def test_schedulers_that_lack_something(predictions, monkeypatch) -> None:
    def missing(name, _):
        return "val_features" if name == "eenet" else None

    monkeypatch.setattr(schedulers, "missing_evidence", missing)
    names, left_out = evaluation.parse_schedulers("all", predictions)
    assert "eenet" not in names and "msdnet" in names
    assert left_out == {"eenet": "val_features"}
    with pytest.raises(UserError, match="eenet needs val_features, which these"):
        evaluation.parse_schedulers("eenet", predictions)


def test_results_keep_the_contract(results, predictions) -> None:
    assert results["cost_unit"] == "mflops" and results["costs"] == [1.0, 2.0, 4.0]
    for part in ("val", "test"):
        expected = getattr(predictions, part).correct.mean(axis=1)
        np.testing.assert_allclose(results["exit_accuracy"][part], expected)
    pairs = [(r["scheduler"], r["budget"]) for r in results["records"]]
    names = ("msdnet", "maxprob_opt")
    assert pairs == [(name, b) for name in names for b in (1.0, 1.9, 3.1, 9.0)]
    for record in results["records"]:
        assert record.keys() >= KEYS
        assert record["met"] is True and record["val_cost"] <= record["budget"] + 1e-9
        assert len(record["thresholds"]) == 3 and record["thresholds"][-1] == "-inf"
        assert sum(record["exit_fraction"]) == pytest.approx(1)
        cost = np.dot(record["exit_fraction"], COSTS)
        assert record["test_cost"] == pytest.approx(cost)
        parts = zip(
            record["exit_fraction"], record["accuracy_where_taken"], strict=True
        )
        right = sum(share * accuracy for share, accuracy in parts if share)
        assert record["test_accuracy"] == pytest.approx(right)


def test_the_cheapest_budget_sends_everyone_to_the_first_exit(results) -> None:
    first = results["records"][0]
    assert first["exit_fraction"] == [1.0, 0.0, 0.0]
    assert first["accuracy_where_taken"][1:] == [None, None]
    assert first["test_accuracy"] == results["exit_accuracy"]["test"][0]


def test_policies_are_saved_and_decide_alike(results, folder) -> None:
    saved = schedulers.Frontier.load(folder / "policies" / "msdnet.npz")
    names = sorted(path.name for path in (folder / "policies").iterdir())
    kept = ("maxprob_opt.json", "maxprob_opt.npz", "msdnet.json", "msdnet.npz")
    assert names == list(kept)
    finite = [float(t) for t in results["records"][1]["thresholds"]]
    np.testing.assert_array_equal(saved.for_budget(1.9).thresholds, finite)


def test_one_exit_alone_runs_no_other_head(predictions) -> None:
    alone = evaluation.single_exit_costs(predictions)
    np.testing.assert_allclose(alone, [1.0, 1.75, 3.5])
    unknown = predictions.with_costs(COSTS, "ms")
    np.testing.assert_array_equal(evaluation.single_exit_costs(unknown), COSTS)


def test_budget_below_the_cheapest_exit(predictions, key) -> None:
    with pytest.raises(UserError, match=r"0\.5 mflops is below 1,.*raise the budget"):
        evaluation.evaluate(
            predictions, schedulers=["msdnet"], budgets=np.array([0.5, 2]), key=key
        )


def test_report_is_strict_json_and_figures(results, folder) -> None:
    table = evaluation.write_report(results, folder / "deep" / "eval")
    assert "msdnet" in table
    names = sorted(path.name for path in (folder / "deep" / "eval").iterdir())
    assert names == ["exits.png", "frontier.png", "results.json"]

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "deep" / "eval" / "results.json").read_text()
    assert json.loads(text, parse_constant=refuse) == results
    with pytest.raises(ValueError, match="not JSON compliant"):
        evaluation.write_report({**results, "costs": [np.nan]}, folder / "deep/eval")
    assert (folder / "deep" / "eval" / "results.json").read_text() == text


def test_without_schedulers_there_are_no_records(predictions, key, tmp_path) -> None:
    low = np.array([0.1])  # budgets do not matter then
    results = evaluation.evaluate(predictions, schedulers=[], budgets=low, key=key)
    assert results["records"] == []
    evaluation.write_report(results, tmp_path)
    assert (tmp_path / "exits.png").stat().st_size > 1000


def test_output_that_is_a_file(tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UserError, match="--output=.*taken.* cannot be made"):
            evaluation.make_output(path)
