"""Pixels that an exit has decided are not computed again: what that would save (ADP-C).

    python -m eenet_jax.pixel_masks --workdir=runs/camvid

For a range of confidence thresholds, mean IoU against multiply-adds, with every decided
pixel left out of the convolutions that follow. No device skips single pixels, so these
are counts and not times; ``evaluate.py --blocks`` saves time. The threshold is chosen
on the validation part: the fewest multiply-adds at a mean IoU within --max_drop of the
whole network's. The network may have been trained with masks or without.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from eenet_jax import errors
from eenet_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run of train.py.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Which of the run's checkpoints: best, latest, or a step."
)
_THRESHOLDS = flags.DEFINE_list(
    "thresholds",
    ["0.8", "0.9", "0.95", "0.98", "0.99", "0.995", "0.998", "0.9995"],
    "Probabilities above which a pixel is decided.",
)
_MAX_DROP = flags.DEFINE_float(
    "max_drop", 0.003, "Mean IoU that may be lost on the validation part."
)
_OUT = flags.DEFINE_string(
    "out", None, "File to write; by default WORKDIR/pixel_masks.json."
)


def main(argv: Sequence[str]) -> None:
    """Counts, writes the file and prints a table."""
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; give the directory of a run")
    thresholds = _read(_THRESHOLDS.value)
    if not 0 <= _MAX_DROP.value < 1:
        raise UserError(f"--max_drop={_MAX_DROP.value} must be in [0, 1), e.g. 0.003")

    from eenet_jax import masking, trained
    from eenet_jax.files import make_directory, write_text
    from eenet_jax.report.frontier import align

    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value, "pixel_masks.json"))
    make_directory(out.parent, "out")
    run = trained.load_trained(_WORKDIR.value, _CHECKPOINT.value)
    masking.check(run.backbone)
    thresholds = [*thresholds, 1.0]  # at which nothing is decided
    parts = run.dataset.val, run.dataset.test
    val, test = (masking.count(run, part, thresholds) for part in parts)
    summary = masking.summarise(val, test, thresholds, _MAX_DROP.value)
    try:
        write_text(out, json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}") from None
    rows = [["threshold", "val mIoU %", "test mIoU %", "test MFLOPs", "saved %", ""]]
    for i, threshold in enumerate(thresholds):
        of_test = summary["test"]
        rows.append(
            [
                "none" if threshold == 1 else f"{threshold:g}",
                f"{100 * summary['val']['miou'][i]:.2f}",
                f"{100 * of_test['miou'][i]:.2f}",
                f"{of_test['mflops'][i]:.4g}",
                f"{100 * of_test['saved'][i]:.1f}",
                "chosen" if i == summary["chosen"] else "",
            ]
        )
    print("Decided pixels left out, by the confidence that decides them:")
    print("\n".join(align(rows)))
    print(f"written: {out}")


def _read(given: Sequence[str]) -> list[float]:
    """Reads ``--thresholds``, rising."""
    try:
        found = sorted({float(text) for text in given})
    except ValueError:
        found = []
    if not found or not 0 < found[0] <= found[-1] < 1:
        raise UserError(
            f"--thresholds={','.join(given)} must be probabilities in (0, 1), with "
            "commas between"
        )
    return found


if __name__ == "__main__":
    errors.run(main)
