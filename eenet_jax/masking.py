"""Confidence masks on a trained network of maps: what they leave out, and lose (ADP-C).

The network may have been trained with masks or without; its variables are the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.backbones.hrnet_masked import Masked
from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs.masked import map_convs, masked_macs
from eenet_jax.data import inputs
from eenet_jax.data.datasets import Split
from eenet_jax.errors import UserError
from eenet_jax.iou import mean_iou
from eenet_jax.map_inference import confusion
from eenet_jax.trained import Trained
from eenet_jax.writers import Progress


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network says of N images, with what it would compute.

    Attributes:
      confusion: Each image's pixels by class and answer, int ``[K, N, C, C]``.
      mflops: Millions of floating-point operations up to each exit, ``[K, N]``.
    """

    confusion: np.ndarray
    mflops: np.ndarray


def check(backbone: Backbone) -> None:
    """Refuses networks that masks by confidence are not for.

    Raises:
      UserError: If it does not answer with maps, or was trained with other masks.
    """
    if backbone.output_kind != "map":
        raise UserError(
            f"model.name={backbone.name!r} answers with a class; masks are for maps"
        )
    kind = getattr(backbone.module, "mask", "confidence")
    if kind != "confidence":
        raise UserError(
            f"the network was trained with model.options.mask={kind!r}, and thresholds "
            "here are probabilities; train it with mask=confidence, or without masks"
        )


def masked(backbone: Backbone, threshold: float) -> Backbone:
    """Returns a network of maps with confidence masks at a threshold.

    It has the same variables.
    """
    module = backbone.module
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


def count(run: Trained, part: Split, thresholds: Sequence[float]) -> list[Counts]:
    """Runs a trained network over a part of its data with masks at each threshold.

    Args:
      run: The network and its data.
      part: A split of its data.
      thresholds: Of the masks.
    """
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
        of_all = (np.concatenate(a, axis=1) for a in zip(*parts, strict=True))
        found.append(Counts(*of_all))
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
