"""Length buckets: which padded length a text is computed at.

XLA compiles a program for one shape, so texts are padded to the length of their bucket.
Each bucket in use is one compilation more (of the training step, and of each stage when
serving), and a batch holds texts of one bucket. Many buckets waste less of the
computation on padding; few compile sooner. Four to eight are usually enough.
"""

from collections.abc import Sequence

import numpy as np

from eenet_jax.errors import UserError


def default_boundaries(
    lengths: np.ndarray,
    count: int,
    multiple: int = 8,
    max_length: int | None = None,
) -> tuple[int, ...]:
    """Chooses buckets that waste the fewest tokens on padding.

    Exact, by dynamic programming over the histogram of the lengths: every other choice
    of at most ``count`` multiples pads these texts by as many tokens or more.

    Args:
      lengths: Tokens of each text, integers ``[N]``, from 1.
      count: Most buckets to choose, at least 1.
      multiple: Boundaries are multiples of it. The last, the longest length rounded
        up, may so pass the width of ``TextSplit.ids``: pad them.
      max_length: Where texts were cut off, so a boundary that rounds beyond it, and
        perhaps beyond the model's positions, is lowered to it. None for no limit.

    Returns:
      The buckets' padded lengths, increasing; fewer than ``count`` when no more help.

    Raises:
      UserError: If there is no text, a length is below 1 or above ``max_length``, or
        ``count`` or ``multiple`` is below 1.
    """
    if count < 1 or multiple < 1:
        raise UserError(
            f"count={count} buckets at multiples of multiple={multiple}: both must be "
            "at least 1"
        )
    lengths = _checked(lengths)
    rounded = -(-lengths // multiple) * multiple
    if max_length is not None:
        if lengths.max() > max_length:
            raise UserError(
                f"a text has {lengths.max()} tokens, above max_length={max_length}; "
                "give the max_length that the texts were encoded with"
            )
        rounded = np.minimum(rounded, max_length)
    # A best boundary is always some text's own, so no others are candidates.
    ends, texts = np.unique(rounded, return_counts=True)  # [M], [M]
    up_to = np.concatenate([[0], np.cumsum(texts)])
    # Tokens, padding included, of one bucket from candidate j to candidate i.
    one = ends[None] * (up_to[None, 1:] - up_to[:-1, None])
    bucket = np.where(np.tri(len(ends), dtype=bool).T, one.astype(float), np.inf)
    best = bucket[0]  # [M]: texts up to candidate i, in as many buckets as so far
    starts = []
    for _ in range(1, min(count, len(ends))):
        total = np.concatenate([[np.inf], best[:-1]])[:, None] + bucket  # [M, M]
        starts.append(total.argmin(axis=0))
        best = total.min(axis=0)
    chosen = [len(ends) - 1]
    for start in reversed(starts):
        chosen.append(int(start[chosen[-1]]) - 1)
    return tuple(int(ends[i]) for i in reversed(chosen))


def bucket_of(lengths: np.ndarray, boundaries: Sequence[int]) -> np.ndarray:
    """Returns the narrowest bucket that each text fits in.

    Args:
      lengths: Tokens of each text, integers ``[N]``, from 1.
      boundaries: The buckets' padded lengths, increasing.

    Returns:
      Index into ``boundaries`` of each text, int32 ``[N]``.

    Raises:
      UserError: If the boundaries do not increase from 1, or a text passes the last.
    """
    lengths = _checked(lengths)
    edges = np.asarray(boundaries)
    if edges.ndim != 1 or not len(edges) or (np.diff(edges, prepend=0) < 1).any():
        raise UserError(f"boundaries={tuple(boundaries)} must increase, from 1 or more")
    if lengths.max() > edges[-1]:
        row = int(lengths.argmax())
        raise UserError(
            f"text {row} has {lengths[row]} tokens, but the last of "
            f"boundaries={tuple(boundaries)} is {edges[-1]}; add a longer one, or "
            f"truncate with data.max_length={edges[-1]}"
        )
    return np.searchsorted(edges, lengths).astype(np.int32)


def padding_waste(lengths: np.ndarray, boundaries: Sequence[int]) -> float:
    """Returns the share of padding among all tokens computed.

    Args:
      lengths: Tokens of each text, integers ``[N]``, from 1.
      boundaries: The buckets' padded lengths, increasing.

    Returns:
      In [0, 1): padding over padding and text, every text at its bucket's length.

    Raises:
      UserError: As ``bucket_of``.
    """
    padded = np.asarray(boundaries)[bucket_of(lengths, boundaries)]
    return 1 - float(np.sum(lengths, dtype=np.int64)) / float(padded.sum())


def _checked(lengths: np.ndarray) -> np.ndarray:
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not len(lengths) or lengths.min() < 1:
        raise UserError(
            f"lengths of shape {lengths.shape} must be [N], of one text or more, each "
            "of at least 1 token"
        )
    return lengths.astype(np.int64)
