"""How good is the README's main job, over seeds?

    python -m benchmarks.digits_seeds [--seeds=3] [--out=DIR]

Trains and evaluates configs/digits.py for each seed and prints, as Markdown, accuracy
per exit and, for each scheduler, accuracy and cost at half of the cost range.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run_seed(seed: int, out: pathlib.Path) -> dict:
    """Trains and evaluates one seed; returns its ``results.json``."""
    workdir = out / f"seed{seed}"
    commands = [
        ["train.py", "--config=configs/digits.py", f"--config.seed={seed}"],
        ["evaluate.py"],
    ]
    for command in commands:
        line = [sys.executable, *command, f"--workdir={workdir}"]
        subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((workdir / "eval" / "results.json").read_text())


def at_half(results: dict, scheduler: str) -> tuple[float, float]:
    """Test accuracy and cost of the dearest record within half of the cost range."""
    costs = results["costs"]
    limit = costs[0] + (costs[-1] - costs[0]) / 2
    within = [
        record
        for record in results["records"]
        if record["scheduler"] == scheduler and record["test_cost"] <= limit
    ]
    record = max(within, key=lambda r: (r["budget"] <= limit, r["budget"]))
    return record["test_accuracy"], record["test_cost"]


def spread(values: list[float], scale: float = 1.0) -> str:
    """Returns "mean (least to most)"."""
    v = scale * np.asarray(values)
    return f"{v.mean():.4g} ({v.min():.4g} to {v.max():.4g})"


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=None)
    args = parser.parse_args()
    out = args.out or pathlib.Path(tempfile.mkdtemp())
    runs = [run_seed(seed, out) for seed in range(args.seeds)]

    costs = runs[0]["costs"]
    print("| exit | MFLOPs | share of full | test accuracy, % |")
    print("| --- | --- | --- | --- |")
    for k, cost in enumerate(costs):
        accuracy = [run["exit_accuracy"]["test"][k] for run in runs]
        share = f"{100 * cost / costs[-1]:.0f} %"
        print(f"| {k + 1} | {cost:.3f} | {share} | {spread(accuracy, 100)} |")
    print("\n| scheduler | test accuracy, % | mean test cost, MFLOPs |")
    print("| --- | --- | --- |")
    for scheduler in dict.fromkeys(r["scheduler"] for r in runs[0]["records"]):
        points = [at_half(run, scheduler) for run in runs]
        accuracy, cost = zip(*points, strict=True)
        print(f"| `{scheduler}` | {spread(accuracy, 100)} | {spread(cost)} |")


if __name__ == "__main__":
    main()
