"""The records of an evaluation as curves and as a table."""

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def curves(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """Returns each scheduler's records, by rising budget."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for record in results["records"]:
        by_name.setdefault(record["scheduler"], []).append(record)
    return {n: sorted(r, key=lambda r: r["budget"]) for n, r in by_name.items()}


def table(results: Results) -> str:
    """Formats the results for a terminal.

    The exits first, each alone; then one row a budget with every scheduler's test
    accuracy and mean test cost, the most accurate marked.
    """
    unit = results["cost_unit"]
    exits = [["exit", f"cost, {unit}", "alone", "val %", "test %"]]
    for k, cost in enumerate(results["costs"]):
        val, test = (results["exit_accuracy"][part][k] for part in ("val", "test"))
        alone = results["single_exit_costs"][k]
        exits.append([f"{k + 1}", f"{cost:.4g}", f"{alone:.4g}", _pct(val), _pct(test)])
    lines = ["Every exit for all samples:", *_align(exits)]
    by_name = curves(results)
    if by_name:
        lines += [
            "",
            f"Test accuracy in % @ mean test cost in {unit} (budget kept on validation;"
            " * best of the row):",
            *_align(_budget_rows(by_name)),
        ]
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
        drop = records[0].get("max_drop")
        label = f"{records[0]['budget']:.4g}" if drop is None else f"drop {drop:g}"
        rows.append([label, *cells])
    return rows


def _pct(share: float) -> str:
    return f"{100 * share:.2f}"


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
