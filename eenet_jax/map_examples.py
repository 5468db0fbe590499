"""Images with label maps that show what a policy does, and what the network says."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eenet_jax.iou import image_iou
from eenet_jax.predictions import Split

MOST = 6  # images shown


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images of n samples, with what is known and said of their pixels.

    Attributes:
      images: uint8 ``[n, H, W, 3]``.
      labels: uint8 ``[n, H, W]``: classes, or ``VOID``.
      answers: Of every exit, uint8 ``[K, n, H, W]``.
    """

    images: np.ndarray
    labels: np.ndarray
    answers: np.ndarray


@dataclasses.dataclass(frozen=True)
class MapSource:
    """Where pictures come from.

    Attributes:
      read: From places in the test part to their pictures.
      class_names: Of the C classes.
      colours: Of the classes, RGB, 0 to 255, ``[C, 3]``.
    """

    read: Callable[[Sequence[int]], Pictures]
    class_names: Sequence[str]
    colours: np.ndarray


def choose(split: Split, exit_index: np.ndarray) -> list[dict[str, Any]]:
    """Chooses images that left at each exit, the best and the worst answered there.

    Args:
      split: With confusion matrices of N images.
      exit_index: Exit taken, ``[N]``.

    Returns:
      Up to ``MOST``, by exit, ready for JSON: the image's place ``row``, its ``exit``
      (from 0) and its mean ``iou`` at every exit.
    """
    iou = image_iou(split.confusion)  # [K, N]
    chosen: list[tuple[int, int]] = []
    for best in (True, False):
        for k in range(len(iou)):
            rows = np.flatnonzero(exit_index == k)
            taken = {row for _, row in chosen}
            rows = np.array([row for row in rows if row not in taken], int)
            if len(rows) and len(chosen) < MOST:
                at = iou[k, rows]
                chosen.append((k, int(rows[at.argmax() if best else at.argmin()])))
    return [
        {"row": row, "exit": k, "iou": iou[:, row].tolist()}
        for k, row in sorted(chosen)
    ]
