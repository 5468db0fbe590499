"""The records of an evaluation as curves and as a table."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def metric(results: Results) -> str:
    """Returns what accuracies are called: accuracy, or mIoU of label maps."""
    return "mIoU" if results.get("metric") == "miou" else "accuracy"


def curves(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Returns each scheduler's records, by rising budget."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for record in results["records"]:
        by_name.setdefault(record["scheduler"], []).append(record)
    return {n: sorted(r, key=lambda r: r["budget"]) for n, r in by_name.items()}


def table(results: Results) -> str:
    """Formats the results for a terminal.

    The exits first, each alone; then one row a budget with every scheduler's test
    accuracy and mean test cost, the most accurate marked; then the schedulers at equal
    cost, and the quality of their scores.
    """
    unit = results["cost_unit"]
    exits = [["exit", f"cost, {unit}", "alone", "val %", "test %"]]
    for k, cost in enumerate(results["costs"]):
        val, test = (results["exit_accuracy"][part][k] for part in ("val", "test"))
        alone = results["single_exit_costs"][k]
        exits.append([f"{k + 1}", f"{cost:.4g}", f"{alone:.4g}", _pct(val), _pct(test)])
    named = " (mIoU)" if metric(results) == "mIoU" else ""
    lines = [f"Every exit for all samples{named}:", *align(exits)]
    if results.get("exit_class_iou"):
        lines += ["", *_class_iou(results)]
    by_name = curves(results)
    if by_name:
        lines += [
            "",
            f"Test {metric(results)} in % @ mean test cost in {unit} (budget kept on "
            "validation; * best of the row):",
            *align(_budget_rows(by_name)),
            *_alphas(by_name),
        ]
    if results.get("comparison"):
        lines += ["", *_comparison(results["comparison"], unit, metric(results))]
    if results.get("score_quality"):
        lines += ["", *_score_quality(results["score_quality"])]
    return "\n".join(lines)


def _budget_rows(by_name: Mapping[str, Any]) -> list[list[str]]:
    rows = [["budget", *by_name]]
    for records in zip(*by_name.values(), strict=True):
        best = max(record["test_accuracy"] for record in records)
        cells = [
            f"{_pct(r['test_accuracy'])}{'*' if r['test_accuracy'] == best else ' '}"
            f"@ {r['test_cost']:.4g}"
            for r in records
        ]
        rows.append([_target(records[0]), *cells])
    return rows


def _alphas(by_name: Mapping[str, Any]) -> list[str]:
    """Returns a line for each scheduler that weighs cost by an alpha."""
    lines = []
    for name, records in by_name.items():
        if any("alpha" in record for record in records):
            found = [f"{r['alpha']:.2f}" if "alpha" in r else "-" for r in records]
            lines.append(f"alpha of {name}, row by row: {', '.join(found)}")
    return lines


def _target(record: Mapping[str, Any]) -> str:
    """Returns what a record's policy was chosen for."""
    for name, label in (("max_drop", "drop"), ("min_accuracy", "accuracy")):
        if name in record:
            return f"{label} {record[name]:g}"
    return f"{record['budget']:.4g}"


def _class_iou(results: Results) -> list[str]:
    """Formats each exit's IoU of every class: a title and one row a class."""
    of_exits = results["exit_class_iou"]["test"]
    names = results.get("class_names") or range(len(of_exits[0]))
    rows = [["class", *(f"exit {k + 1}" for k in range(len(of_exits)))]]
    for name, *values in zip(names, *of_exits, strict=True):
        rows.append([str(name), *("-" if v is None else _pct(v) for v in values)])
    return ["Test IoU of every class in %:", *align(rows)]


def _comparison(
    comparison: Mapping[str, Any], unit: str, name_of_accuracy: str
) -> list[str]:
    """Formats accuracies at equal cost: a title and one row a scheduler."""
    reference, seeds = comparison["reference"], comparison["seeds"]
    costs = [f"@ {cost:.4g}" for cost in comparison["costs"]["points"]]
    several = seeds > 1
    spread = ["lowest to highest"] if several else []
    rows = [["scheduler", *costs, "mean", *spread, f"mean less {reference} [95 %]"]]
    for name, found in comparison["schedulers"].items():
        mean = found["points_mean"]
        rows.append(
            [name, *map(_pct, [*found["points"]["accuracy"], mean["accuracy"]])]
        )
        if several:
            rows[-1].append(f"{_pct(mean['lowest'])} to {_pct(mean['highest'])}")
        low, high = (_signed(end) for end in mean["interval"])
        difference = f"{_signed(mean['difference'])} [{low}, {high}]"
        rows[-1].append("-" if name == reference else difference)
    fits = f", mean of {seeds} fits" if several else ""
    return [
        f"At equal mean test cost in {unit} (25, 50, 75 % of the range): test "
        f"{name_of_accuracy} in %{fits}:",
        *align(rows),
    ]


def _score_quality(quality: Mapping[str, Any]) -> list[str]:
    """Formats the scores' quality: a title and one row a scheduler."""
    columns = {
        "AURC x1000": ("aurc", 1000, "3.0f"),
        "failure AUROC": ("failure_auroc", 1, "5.3f"),
        "ECE %": ("ece", 100, "4.1f"),
    }
    rows = [["scheduler", *columns]]
    for name, found in quality.items():
        cells = (
            " ".join(
                "-".rjust(int(form[0])) if v is None else f"{scale * v:{form}}"
                for v in found[key]
            )
            for key, scale, form in columns.values()
        )
        rows.append([name, *cells])
    return [
        "Score quality on the test part, exit by exit, at the middle budget (a score "
        "that is the same for all has AUROC 0.5):",
        *align(rows),
    ]


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}"


def _pct(share: float) -> str:
    return f"{100 * share:.2f}"


def align(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
