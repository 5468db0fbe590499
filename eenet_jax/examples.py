"""Which samples show best what a policy does: the surest answers at each exit."""

from typing import Any

import numpy as np

MOST_CLASSES = 10  # shown of an exit


def choose(
    logits: np.ndarray,
    answers: np.ndarray,
    labels: np.ndarray,
    exit_index: np.ndarray,
) -> list[dict[str, Any]]:
    """Finds for each exit and class the surest right and the surest wrong sample.

    Only samples that leave at the exit count there. Of several that are equally sure
    the first is taken.

    Args:
      logits: Of all exits, as the policy sees them, ``[K, N, C]``.
      answers: Class answered where a sample left, ``[N]``.
      labels: True classes, ``[N]``, each in 0..C-1.
      exit_index: Exit taken, ``[N]``.

    Returns:
      For each exit, ready for JSON: ``samples``, how many left there; ``accuracy`` of
      these, None without any; ``classes``, the true classes shown (see
      ``shown_classes``); and for each of these under ``right`` and ``wrong`` the
      sample's place ``row``, its ``answer`` and the answer's ``probability``, or None
      where the class has no such sample.
    """
    right, found = answers == labels, []
    for k, of_exit in enumerate(logits):
        rows = np.flatnonzero(exit_index == k)
        odds = log_odds(of_exit[rows], answers[rows])
        classes = shown_classes(labels[rows], of_exit.shape[-1])
        record: dict[str, Any] = {
            "samples": len(rows),
            "accuracy": float(right[rows].mean()) if len(rows) else None,
            "classes": classes,
        }
        for name, wanted in (("right", right[rows]), ("wrong", ~right[rows])):
            members = (np.flatnonzero(wanted & (labels[rows] == c)) for c in classes)
            record[name] = [_surest(m, rows, answers, odds) for m in members]
        found.append(record)
    return found


def log_odds(logits: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)) of the answers' probability p, float64 ``[N]``.

    It still tells samples apart where p rounds to 1.

    Args:
      logits: ``[N, C]``.
      answers: ``[N]``.
    """
    place = np.arange(len(answers)), answers
    own = logits[place].astype(np.float64)
    others = logits.copy()
    others[place] = -np.inf
    top = others.max(axis=1, keepdims=True)
    return own - top[:, 0] - np.log(np.exp(others - top).sum(axis=1))


def shown_classes(labels: np.ndarray, num_classes: int) -> list[int]:
    """Returns all classes in order, or of more than ten the most frequent first.

    Args:
      labels: Of the samples that left at the exit, ``[N]``.
      num_classes: C.
    """
    if num_classes <= MOST_CLASSES:
        return list(range(num_classes))
    counts = np.bincount(labels, minlength=num_classes)
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    return order[counts[order] > 0].tolist()


def _surest(
    members: np.ndarray, rows: np.ndarray, answers: np.ndarray, odds: np.ndarray
) -> dict[str, Any] | None:
    """Describes the surest of ``members``, places in ``rows``; None without any."""
    if not len(members):
        return None
    best = members[odds[members].argmax()]
    row = int(rows[best])
    probability = float(np.exp(-np.logaddexp(0.0, -odds[best])))
    return {"row": row, "answer": int(answers[row]), "probability": probability}
