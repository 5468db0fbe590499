"""Evaluation as a library: budgets, schedulers, records and the report's files."""

import json

import jax
import numpy as np
import pytest

from eenet_jax import evaluation, schedulers
from eenet_jax.errors import UserError
from eenet_jax.files import make_directory
from eenet_jax.predictions import Predictions, Split
from eenet_jax.report.files import write_report
from eenet_jax.schedulers.adjust import adjust_split

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
        budgets=np.array([1.0, 1.9, 3.0, 9.0]),
        key=jax.random.key(0),
        policies_dir=folder / "policies",
    )


def test_results_keep_the_contract(results, predictions) -> None:
    assert results["cost_unit"] == "mflops" and results["costs"] == [1.0, 2.0, 4.0]
    for part in ("val", "test"):
        expected = getattr(predictions, part).correct.mean(axis=1)
        np.testing.assert_allclose(results["exit_accuracy"][part], expected)
    pairs = [(r["scheduler"], r["budget"]) for r in results["records"]]
    names = ("msdnet", "maxprob_opt")
    assert pairs == [(name, b) for name in names for b in (1.0, 1.9, 3.0, 9.0)]
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
    alone = predictions.single_exit_costs
    np.testing.assert_allclose(alone, [1.0, 1.75, 3.5])
    unknown = predictions.with_costs(COSTS, "ms")
    np.testing.assert_array_equal(unknown.single_exit_costs, COSTS)


def test_budget_below_the_cheapest_exit(predictions, key) -> None:
    with pytest.raises(UserError, match=r"0\.5 mflops is below 1,.*raise the budget"):
        evaluation.evaluate(
            predictions, schedulers=["msdnet"], budgets=np.array([0.5, 2]), key=key
        )


def test_report_is_strict_json_and_figures(results, folder) -> None:
    table = write_report(results, folder / "deep" / "eval")
    assert "msdnet" in table
    names = sorted(path.name for path in (folder / "deep" / "eval").iterdir())
    figures = ["classes.png", "comparison.png", "exits.png", "frontier.png"]
    assert names == [*figures, "results.json"]
    assert "frontier.png, exits.png, comparison.png and classes.png are in" in table

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "deep" / "eval" / "results.json").read_text()
    assert json.loads(text, parse_constant=refuse) == results
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report({**results, "costs": [np.nan]}, folder / "deep/eval")
    assert (folder / "deep" / "eval" / "results.json").read_text() == text


def test_adjusted_answers_are_measured(results, predictions, key) -> None:
    found = evaluation.evaluate(
        predictions,
        schedulers=["maxprob_opt"],
        budgets=np.array([1.0, 1.9, 3.0, 9.0]),
        key=key,
        ensemble=True,
    )
    assert results["adjustment"] == {"temperature": None, "ensemble": False}
    assert found["adjustment"] == {"temperature": None, "ensemble": True}
    assert found["exit_accuracy"] == results["exit_accuracy"]
    split = adjust_split(schedulers.Adjustment(None, True, 4), predictions.test)
    assert (split.correct != predictions.test.correct).any()
    records = found["records"]
    for record in records:
        assert record["met"] is True
        share = np.array(record["exit_fraction"])
        if share.max() == 1:
            expected = split.correct[share.argmax()].mean()
            assert record["test_accuracy"] == pytest.approx(expected)
    cost, accuracy = ([r[n] for r in records] for n in ("test_cost", "test_accuracy"))
    points = found["comparison"]["schedulers"]["maxprob_opt"]["points"]["accuracy"]
    expected = np.interp(found["comparison"]["costs"]["points"], cost, accuracy)
    np.testing.assert_allclose(points, expected)
    of_classes = found["per_class"]["maxprob_opt"]
    share = np.bincount(predictions.test.labels, minlength=4) / 300
    middle = next(r for r in records if r["budget"] == of_classes["budget"])
    assert share @ of_classes["accuracy"] == pytest.approx(middle["test_accuracy"])
    bound = found["clairvoyant"]["test_accuracy"][-1]
    assert bound == pytest.approx(split.correct.any(axis=0).mean())


def test_without_schedulers_there_are_no_records(predictions, key, tmp_path) -> None:
    low = np.array([0.1])  # budgets do not matter then
    results = evaluation.evaluate(predictions, schedulers=[], budgets=low, key=key)
    assert results["records"] == []
    for name in ("comparison", "score_quality", "per_class", "examples"):
        assert results[name] == {}
    (tmp_path / "classes.png").write_bytes(b"of an earlier report")
    write_report(results, tmp_path)
    assert (tmp_path / "exits.png").stat().st_size > 1000
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["exits.png", "frontier.png", "results.json"]


def test_scores_and_classes_are_of_the_middle_budget(results, predictions) -> None:
    names = ["msdnet", "maxprob_opt"]
    for part in ("score_quality", "per_class"):
        assert list(results[part]) == names
    for name in names:
        of_classes = results["per_class"][name]
        assert of_classes["budget"] == 3.0  # the middle of the costs is 2.5
        found = [r for r in results["records"] if r["scheduler"] == name]
        record = next(r for r in found if r["budget"] == 3.0)
        share = np.bincount(predictions.test.labels, minlength=4) / 300
        assert share @ of_classes["accuracy"] == pytest.approx(record["test_accuracy"])
        assert share @ of_classes["cost"] == pytest.approx(record["test_cost"])
        fractions = share @ np.array(of_classes["exit_fraction"])
        np.testing.assert_allclose(fractions, record["exit_fraction"])
        quality = results["score_quality"][name]
        assert quality.keys() == {"ece", "aurc", "failure_auroc"}
        assert quality["aurc"] == sorted(quality["aurc"], reverse=True)


def test_comparison_reads_off_the_records(results) -> None:
    comparison = results["comparison"]
    assert comparison["reference"] == "maxprob_opt" and comparison["seeds"] == 1
    assert list(comparison["schedulers"]) == ["msdnet", "maxprob_opt"]
    for name, found in comparison["schedulers"].items():
        records = [r for r in results["records"] if r["scheduler"] == name]
        cost, accuracy = (
            [r[k] for r in records] for k in ("test_cost", "test_accuracy")
        )
        expected = np.interp(comparison["costs"]["points"], cost, accuracy)
        np.testing.assert_allclose(found["points"]["accuracy"], expected)


def test_random_mixture_starts_and_ends_at_the_exits(results) -> None:
    alone, mixture = results["exit_accuracy"]["test"], results["random"]
    assert mixture["budgets"] == results["clairvoyant"]["budgets"]
    assert mixture["test_accuracy"][0] == pytest.approx(alone[0])
    assert mixture["test_accuracy"][-1] == pytest.approx(max(alone))


def test_further_seeds_leave_the_first_as_it_is(results, predictions, tmp_path) -> None:
    again = evaluation.evaluate(
        predictions,
        schedulers=["msdnet", "maxprob_opt"],
        budgets=np.array([1.0, 1.9, 3.0, 9.0]),
        key=jax.random.key(0),
        seeds=2,
        policies_dir=tmp_path,
    )
    for part in ("score_quality", "per_class"):
        assert again[part] == results[part]
    for new, old in zip(again["records"], results["records"], strict=True):
        assert {**new, "fit_seconds": 0.0} == {**old, "fit_seconds": 0.0}
    assert again["comparison"]["seeds"] == 2
    names = {path.name for path in tmp_path.glob("*.npz")}
    fits = ("msdnet", "maxprob_opt", "msdnet_seed1", "maxprob_opt_seed1")
    assert names == {f"{name}.npz" for name in fits}


@pytest.mark.slow
def test_a_largest_drop_and_a_saved_fit_compare_nothing(
    results, predictions, folder, key, tmp_path
) -> None:
    dropped = evaluation.evaluate(
        predictions, schedulers=["msdnet"], budgets=COSTS, key=key, max_drop=0.5
    )
    floor = results["exit_accuracy"]["val"][0] + 0.02
    accurate = evaluation.evaluate(
        *(predictions,),
        schedulers=["msdnet"],
        budgets=COSTS,
        key=key,
        min_accuracy=floor,
    )
    assert accurate["records"][0]["val_accuracy"] >= floor
    assert accurate["records"][0]["val_cost"] < COSTS[-1]
    saved = folder / "policies" / "msdnet.npz"
    applied = evaluation.apply_saved(saved, np.array([1.0, 3.0]), predictions)
    assert applied["score_quality"]["msdnet"] == results["score_quality"]["msdnet"]
    for found, count in ((dropped, 1), (accurate, 1), (applied, 2)):
        assert len(found["records"]) == count and found["comparison"] == {}
        assert list(found["per_class"]) == ["msdnet"]
        write_report(found, tmp_path)
        assert not (tmp_path / "comparison.png").exists()
    assert dropped["per_class"]["msdnet"]["budget"] == dropped["records"][0]["val_cost"]


def test_output_that_is_a_file(tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(UserError, match="--output=.*taken.* cannot be made"):
            make_directory(path, "output")
