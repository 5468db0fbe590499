"""The records of an evaluation as curves and as the printed table."""

from eenet_jax.report import frontier


def _record(scheduler: str, budget: float, accuracy: float) -> dict:
    return {
        "scheduler": scheduler,
        "budget": budget,
        "test_accuracy": accuracy,
        "test_cost": budget - 0.125,
    }


RESULTS = {
    "cost_unit": "mflops",
    "costs": [1.0, 2.5],
    "single_exit_costs": [1.0, 2.25],
    "exit_accuracy": {"val": [0.5, 0.75], "test": [0.4, 0.7]},
    "records": [
        _record("slow", 2.0, 0.625),
        _record("quick", 1.5, 0.5),
        _record("slow", 1.5, 0.55),
        _record("quick", 2.0, 0.625),
    ],
}


def test_curves_go_by_rising_budget() -> None:
    curves = frontier.curves(RESULTS)
    assert list(curves) == ["slow", "quick"]
    for records in curves.values():
        assert [r["budget"] for r in records] == [1.5, 2.0]


def test_table_has_a_row_a_budget_and_marks_the_best() -> None:
    lines = [line.split() for line in frontier.table(RESULTS).splitlines()]
    assert ["2", "2.5", "2.25", "75.00", "70.00"] in lines
    assert ["budget", "slow", "quick"] in lines
    assert ["1.5", "55.00*@", "1.375", "50.00", "@", "1.375"] in lines
    assert ["2", "62.50*@", "1.875", "62.50*@", "1.875"] in lines  # a tie: both


def test_table_columns_stand_under_their_heads() -> None:
    lines = frontier.table(RESULTS).splitlines()
    head = next(i for i, line in enumerate(lines) if line.lstrip().startswith("budget"))
    for row in lines[head + 1 :]:
        assert row[lines[head].index("quick") - 1] == " "
        assert row[lines[head].index("quick")].isdigit()


def test_table_without_records_has_the_exits_only() -> None:
    text = frontier.table({**RESULTS, "records": []})
    assert "Every exit" in text and "budget" not in text


def _summary(accuracy: list[float], difference: float) -> dict:
    mean = sum(accuracy) / len(accuracy)
    return {
        "points": {"accuracy": accuracy},
        "points_mean": {
            "accuracy": mean,
            "lowest": mean - 0.01,
            "highest": mean + 0.01,
            "difference": difference,
            "interval": [difference - 0.002, difference + 0.003],
        },
    }


def _comparison(seeds: int) -> dict:
    return {
        "reference": "slow",
        "seeds": seeds,
        "costs": {"points": [1.375, 1.75, 2.125]},
        "schedulers": {
            "slow": _summary([0.5, 0.6, 0.7], 0.0),
            "quick": _summary([0.51, 0.61, 0.71], 0.01),
        },
    }


def test_table_of_equal_cost() -> None:
    text = frontier.table({**RESULTS, "comparison": _comparison(1)})
    lines = [line.split() for line in text.splitlines()]
    head = ["scheduler", *"@ 1.375 @ 1.75 @ 2.125 mean mean less slow [95 %]".split()]
    assert head in lines
    assert ["slow", "50.00", "60.00", "70.00", "60.00", "-"] in lines
    row = ["quick", "51.00", "61.00", "71.00", "61.00", "+1.00", "[+0.80,", "+1.30]"]
    assert row in lines
    several = frontier.table({**RESULTS, "comparison": _comparison(3)})
    assert "mean of 3 fits" in several and "60.00 to 62.00" in several


def test_table_of_score_quality() -> None:
    quality = {
        "quick": {
            "ece": [0.155, 0.01],
            "aurc": [0.2, 0.1],
            "failure_auroc": [0.8, None],
        },
        "slow": {"ece": [None, None], "aurc": [0.3, 0.2], "failure_auroc": [0.5, 0.75]},
    }
    text = frontier.table({**RESULTS, "score_quality": quality})
    lines = [line.split() for line in text.splitlines()]
    assert ["quick", "200", "100", "0.800", "-", "15.5", "1.0"] in lines
    assert ["slow", "300", "200", "0.500", "0.750", "-", "-"] in lines
    assert max(map(len, text.splitlines())) <= 120
