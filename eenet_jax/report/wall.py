"""What policies took when they were run, as a table."""

from collections.abc import Mapping
from typing import Any

from eenet_jax.report.frontier import align

Results = Mapping[str, Any]


def table(results: Results) -> str:
    """Formats wall times for a terminal: the exits alone first, then each policy."""
    common, records = results["adaptive"], results["records"]
    exits = [["exit, alone", "ms/sample", "samples/s", "p50", "p95", "p99 ms/batch"]]
    for k, timed in enumerate(common["exits_alone"], 1):
        exits.append([f"{k}", *_times(timed, timed["ms_per_sample"])])
    heading = ["scheduler", "budget", "test %", "ms/sample", "samples/s", "p50", "p95"]
    heading += ["p99", "full/wall", "wall/ideal", "other decisions (near)"]
    heading += ["queued: samples/s", "full/wall", "other (near)"]
    rows = [heading]
    for record in records:
        wall, queued = record["wall_ms_per_sample"], record["queued"]
        rows.append(
            [
                record["scheduler"],
                f"{record['budget']:.4g}",
                f"{100 * record['adaptive_accuracy']:.2f}",
                *_times(record, wall),
                f"{record['full_wall_ms_per_sample'] / wall:.2f}",
                f"{wall / record['ideal_wall_ms_per_sample']:.2f}",
                _others(record),
                f"{queued['samples_per_second']:.0f}",
                f"{record['full_wall_ms_per_sample'] / queued['ms_per_sample']:.2f}",
                _others(queued),
            ]
        )
    where = f"{records[0]['device']}, {common['dtype']}, {common['versions']}"
    return "\n".join(
        [
            f"Wall time on {where}, batches of {common['batch_size']}:",
            *align(exits),
            "",
            f"Policies run; {common['plan']}:",
            *align(rows),
        ]
    )


def _others(record: Mapping[str, Any]) -> str:
    near = record["decided_otherwise_near_threshold"]
    return f"{record['decided_otherwise']} ({near})"


def _times(timed: Mapping[str, Any], per_sample: float) -> list[str]:
    batch = [f"{timed['batch_ms'][p]:.3g}" for p in ("p50", "p95", "p99")]
    return [f"{per_sample:.4g}", f"{timed['samples_per_second']:.0f}", *batch]
