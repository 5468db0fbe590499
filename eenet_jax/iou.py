"""Intersection over union where every pixel has a class, from confusion matrices."""

import numpy as np


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every class.

    Args:
      counts: Confusion matrices, ``[..., C, C]``.

    Returns:
      float64 ``[..., C]``, in [0, 1]; NaN for a class without pixels and answers.
    """
    counts = np.asarray(counts, np.float64)
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(axis=-1) + counts.sum(axis=-2) - right
    return np.where(union > 0, right / np.where(union > 0, union, 1.0), np.nan)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Returns the mean over classes of ``class_iou``, ``[..., C, C] -> [...]``.

    Classes without pixels and answers are left out; 0 where all are.
    """
    iou = class_iou(counts)
    found = np.isfinite(iou)
    return np.where(found, iou, 0.0).sum(axis=-1) / np.maximum(found.sum(axis=-1), 1)


def image_iou(counts: np.ndarray) -> np.ndarray:
    """Returns an image's mean over the classes that occur in its labels.

    What schedulers maximise the mean of: the mean IoU over a whole data set is no mean
    over images.

    Args:
      counts: ``[..., C, C]``.

    Returns:
      float64 ``[...]``, in [0, 1]; 0 for an image that is void throughout.
    """
    iou = class_iou(counts)
    occurs = np.asarray(counts).sum(axis=-1) > 0
    total = np.where(occurs, iou, 0.0).sum(axis=-1)
    return total / np.maximum(occurs.sum(axis=-1), 1)
