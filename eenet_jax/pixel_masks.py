"""Pixels that an exit has decided are not computed again: what that would save (ADP-C).

    python -m eenet_jax.pixel_masks --workdir=runs/camvid

For a range of confidence thresholds, mean IoU against multiply-adds, with every decided
pixel left out of the convolutions that follow. No device skips single pixels, so these
are counts and not times; ``evaluate.py --blocks`` saves time. The threshold is chosen
on the validation part: the fewest multiply-adds at a mean IoU within --max_drop of the
whole network's. The network may have been trained with masks or without.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network says of N images, with what it would compute.

    Attributes:
      confusion: Each image's pixels by class and answer, int ``[K, N, C, C]``.
      mflops: Millions of floating-point operations up to each exit, ``[K, N]``.
    """

    confusion: np.ndarray
    mflops: np.ndarray


def masked(backbone: Any, threshold: float) -> Any:
    """Returns a network of maps with confidence masks at a threshold.

    It has the same variables. A network that was trained with masks keeps its kind.

    Raises:
      UserError: If it does not answer with maps.
    """
    from eenet_jax.backbones.hrnet_masked import Masked

    module = backbone.module
    if backbone.output_kind != "map":
        raise UserError(
            f"model.name={backbone.name!r} answers with a class; masks are for maps"
        )
    if isinstance(module, Masked):
        module = module.clone(threshold=threshold)
    else:
        fields = {
            field.name: getattr(module, field.name)
            for field in dataclasses.fields(module)
            if field.init and field.name not in ("parent", "name")
        }
        module = Masked(**fields, threshold=threshold)
    return dataclasses.replace(backbone, module=module)


def count(run: Any, part: Any, thresholds: Sequence[float]) -> list[Counts]:
    """Runs a trained network over a part of its data with masks at each threshold.

    Args:
      run: ``trained.Trained``.
      part: A split of its data.
      thresholds: Of the masks.
    """
    from eenet_jax.costs.masked import map_convs, masked_macs
    from eenet_jax.data import inputs
    from eenet_jax.map_inference import confusion
    from eenet_jax.writers import Progress

    prepare = inputs.prepare_eval(run.dataset)

    @jax.jit  # the threshold is an argument, so that it compiles once
    def compute(variables, pixels, labels, threshold):
        network = masked(run.backbone, threshold)
        logits = network.apply(variables, prepare(pixels))[0]
        return logits, confusion(logits, labels)

    size = run.config.eval.batch_size
    progress = Progress(
        len(thresholds) * inputs.num_eval_batches(run.dataset, part, size), 0, "batch"
    )
    convs, found = map_convs(run.backbone, run.variables, run.example(size)), []
    for threshold in thresholds:
        network, parts = masked(run.backbone, threshold), []
        for batch in inputs.eval_batches(run.dataset, part, size):
            real = batch.mask.astype(bool)
            logits, counts = compute(
                run.variables, batch.inputs, jnp.asarray(batch.labels), threshold
            )
            x = run.example(size)
            macs = masked_macs(network, run.variables, x, logits, convs)
            parts.append((np.asarray(counts)[:, real], 2e-6 * macs[:, real]))
            progress.update(1, f"threshold {threshold:g}")
        found.append(Counts(*(np.concatenate(a, axis=1) for a in zip(*parts))))  # noqa: B905
    progress.close()
    return found


def summarise(
    val: Sequence[Counts],
    test: Sequence[Counts],
    thresholds: Sequence[float],
    max_drop: float,
) -> dict[str, Any]:
    """Returns mean IoU and cost of every threshold, and which is chosen.

    Args:
      val: Of the validation part, with each threshold; the last decides nothing, which
        is the whole network.
      test: Likewise.
      thresholds: As many.
      max_drop: Mean IoU that may be lost.

    Returns:
      ``thresholds``; for "val" and "test" the last exit's ``miou`` and ``mflops``,
      all exits' too, and ``saved``, the share of the whole network's operations; and
      ``chosen``, the place of the cheapest that is good enough on "val". For JSON.
    """
    from eenet_jax.iou import mean_iou

    summary: dict[str, Any] = {"thresholds": list(thresholds)}
    for name, parts in (("val", val), ("test", test)):
        miou = np.stack([mean_iou(each.confusion.sum(axis=1)) for each in parts])
        mflops = np.stack([each.mflops.mean(axis=1) for each in parts])
        summary[name] = {
            "miou": miou[:, -1].tolist(),
            "mflops": mflops[:, -1].tolist(),
            "saved": (1 - mflops[:, -1] / mflops[-1, -1]).tolist(),
            "exits": {"miou": miou.tolist(), "mflops": mflops.tolist()},
        }
    miou, mflops = (np.array(summary["val"][name]) for name in ("miou", "mflops"))
    enough = miou >= miou[-1] - max_drop
    summary["chosen"] = int(np.argmin(np.where(enough, mflops, np.inf)))
    return summary


def main(argv: Sequence[str]) -> None:
    """Counts, writes the file and prints a table."""
    del argv
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; give the directory of a run")
    thresholds = _read(_THRESHOLDS.value)

    from eenet_jax import trained
    from eenet_jax.files import write_text
    from eenet_jax.report.frontier import align

    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value, "pixel_masks.json"))
    run = trained.load_trained(_WORKDIR.value, _CHECKPOINT.value)
    masked(run.backbone, thresholds[0])  # refuses other networks at once
    thresholds = [*thresholds, 1.0]  # at which nothing is decided
    val, test = (
        count(run, part, thresholds) for part in (run.dataset.val, run.dataset.test)
    )
    summary = summarise(val, test, thresholds, _MAX_DROP.value)
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
