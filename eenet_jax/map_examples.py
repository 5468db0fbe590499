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
      block: Which block of its image a pixel is in, int ``[H, W]``.
    """

    images: np.ndarray
    labels: np.ndarray
    answers: np.ndarray
    block: np.ndarray


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


def choose(
    split: Split, exit_index: np.ndarray, samples_per_image: int = 1
) -> list[dict[str, Any]]:
    """Chooses images from the one that left first to the one that left last.

    Of images that left alike on average, the best answered one.

    Args:
      split: With confusion matrices of N samples, images or their blocks.
      exit_index: Exit taken, ``[N]``.
      samples_per_image: G, blocks of an image.

    Returns:
      Up to ``MOST``, ready for JSON: the image's place ``row``, the ``exits`` (from 0)
      of its G blocks, and the image's mean ``iou`` at every exit.
    """
    exits = exit_index.reshape(-1, samples_per_image)
    counts = split.confusion
    counts = counts.reshape(len(counts), *exits.shape, *counts.shape[2:]).sum(axis=2)
    iou = image_iou(counts)  # [K, N / G]
    order = np.lexsort((-iou.mean(axis=0), exits.mean(axis=1)))
    places = np.linspace(0, len(order) - 1, min(MOST, len(order))).astype(int)
    return [
        {
            "row": int(row),
            "exits": exits[row].tolist(),
            "iou": iou[:, row].tolist(),
        }
        for row in order[places]
    ]
