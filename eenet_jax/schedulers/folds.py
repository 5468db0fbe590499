"""Folds for cross-validation that keep neighbouring rows together.

Rows next to each other are often related: copies of an image, frames of a video,
sentences of a text. In different folds they would make a fit look better than it is.
"""

import numpy as np

BLOCK = 16  # rows


def draw_folds(
    rng: np.random.Generator, num_samples: int, num_folds: int
) -> np.ndarray:
    """Returns each sample's fold, int32 ``[N]``; blocks of rows share one.

    Where there are too few samples for that, blocks are smaller.
    """
    block = max(1, min(BLOCK, num_samples // (4 * num_folds)))
    num_blocks = -(-num_samples // block)
    of_block = rng.permutation(np.arange(num_blocks, dtype=np.int32) % num_folds)
    return np.repeat(of_block, block)[:num_samples]


def draw_share(
    rng: np.random.Generator, num_samples: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of a share of the samples, of whole blocks, and the others."""
    block = max(1, min(BLOCK, num_samples // 64))
    num_blocks = -(-num_samples // block)
    drawn = rng.permutation(num_blocks) < round(share * num_blocks)
    inside = np.repeat(drawn, block)[:num_samples]
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def rows_outside(fold: np.ndarray, num_folds: int) -> list[np.ndarray]:
    """Returns, for each fold, the rows that are not in it; all if there are none."""
    outside = [np.flatnonzero(fold != f) for f in range(num_folds)]
    return [rows if len(rows) else np.arange(len(fold)) for rows in outside]
