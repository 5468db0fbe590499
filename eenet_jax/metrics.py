"""How good scores are, and how classes fare: measures on saved predictions."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NUM_BINS = 15


def _sigmoid(score: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -np.asarray(score, np.float64)))


# Scorers whose score estimates the probability of being right, and how to read it.
PROBABILITY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max_prob": np.asarray,
    "eenet": _sigmoid,
    "eenet_linear": lambda score: np.clip(score, 0.0, 1.0),
}


def calibration_error(
    probability: np.ndarray, correct: np.ndarray, num_bins: int = NUM_BINS
) -> float:
    """Returns the expected calibration error (Guo et al., 2017).

    The mean over bins of equal width of |share of right answers - mean probability|,
    weighted by the samples in them. A bin holds its upper edge, the first also 0.

    Args:
      probability: Estimated probability of being right, in [0, 1], ``[N]``.
      correct: Whether the answer is right, ``[N]``.
      num_bins: Number of bins.
    """
    probability = np.asarray(probability, np.float64)
    place = np.ceil(probability * num_bins).astype(np.int64) - 1
    place = np.clip(place, 0, num_bins - 1)
    gaps = np.bincount(place, np.asarray(correct, np.float64) - probability, num_bins)
    return float(np.abs(gaps).sum() / len(probability))


def aurc(scores: np.ndarray, correct: np.ndarray) -> float:
    """Returns the area under the risk-coverage curve (Geifman et al., 2019).

    The mean over n = 1..N of the error rate of the n samples of highest score. Samples
    of equal score count as in random order, in expectation.

    Args:
      scores: Higher is surer, ``[N]``.
      correct: Whether the answer is right, ``[N]``.
    """
    wrong = 1.0 - np.asarray(correct, np.float64)
    _, group, sizes = _tie_groups(-np.asarray(scores))
    rates = np.bincount(group, wrong) / sizes  # of each group of equal scores
    risk = np.cumsum(np.repeat(rates, sizes)) / np.arange(1, len(wrong) + 1)
    return float(risk.mean())


def failure_auroc(scores: np.ndarray, correct: np.ndarray) -> float:
    """Returns the probability that a right answer outranks a wrong one.

    Equal scores count half. NaN where all are right or all are wrong.

    Args:
      scores: Higher is surer, ``[N]``.
      correct: Whether the answer is right, ``[N]``.
    """
    correct = np.asarray(correct, bool)
    num_right = int(correct.sum())
    num_wrong = len(correct) - num_right
    if not num_right or not num_wrong:
        return float("nan")
    _, group, sizes = _tie_groups(scores)
    ranks = np.cumsum(sizes) - (sizes - 1) / 2  # mean rank of each group, from 1
    above = ranks[group][correct].sum() - num_right * (num_right + 1) / 2
    return float(above / (num_right * num_wrong))


def _tie_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distinct values, rising, each sample's place there, their counts."""
    return np.unique(np.asarray(values), return_inverse=True, return_counts=True)


def score_quality(
    scorer: str, scores: np.ndarray, correct: np.ndarray
) -> dict[str, list[float | None]]:
    """Measures the scores of every exit, ready for JSON.

    On all samples, or those that it tests (the others score -inf); None if it tests
    nobody.

    Args:
      scorer: Name in ``schedulers.scorers.SCORERS``. ``ece`` is None unless its score
        estimates a probability of being right (``PROBABILITY``).
      scores: ``[K, N]``.
      correct: ``[K, N]``.

    Returns:
      ``ece``, ``aurc`` and ``failure_auroc``, each one value or None per exit.
    """
    tested = scores > -np.inf
    exits = [(s[t], c[t]) for s, c, t in zip(scores, correct, tested, strict=True)]

    def of_each(measure):
        values = [measure(s, c) if len(s) else np.nan for s, c in exits]
        return finite_or_none(values)

    ece = [None] * len(exits)
    if scorer in PROBABILITY:
        read = PROBABILITY[scorer]
        ece = of_each(lambda s, c: calibration_error(read(s), c))
    return {
        "ece": ece,
        "aurc": of_each(aurc),
        "failure_auroc": of_each(failure_auroc),
    }


def per_class(
    exit_index: np.ndarray,
    correct: np.ndarray,
    labels: np.ndarray,
    cost: np.ndarray,
    num_classes: int,
) -> dict[str, Any]:
    """Measures a policy on the samples of each class, ready for JSON.

    Args:
      exit_index: Exit taken, ``[N]``.
      correct: Whether exit k is right, ``[K, N]``.
      labels: ``[N]``, each in 0..C-1.
      cost: Of each sample, ``[N]``.
      num_classes: C.

    Returns:
      ``accuracy`` and mean ``cost``, ``[C]``, and ``exit_fraction``, ``[C][K]``; None
      in all three for a class without samples.
    """
    num_exits = len(correct)
    right = np.take_along_axis(np.asarray(correct), exit_index[None], axis=0)[0]
    cells = np.bincount(
        labels * num_exits + exit_index, minlength=num_classes * num_exits
    )
    counts = cells.reshape(num_classes, num_exits)
    sizes = counts.sum(axis=1).astype(np.float64)
    sizes[sizes == 0] = np.nan
    shares = counts / sizes[:, None]
    hits = np.bincount(labels, right, num_classes)
    return {
        "accuracy": finite_or_none(hits / sizes),
        "cost": finite_or_none(np.bincount(labels, cost, num_classes) / sizes),
        "exit_fraction": finite_or_none(shares),
    }


def finite_or_none(values: ArrayLike) -> list[Any]:
    """Returns an array as nested lists, with None for what is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, None).tolist()
