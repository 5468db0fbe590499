"""The fixed split of a training part into what is trained and validated on."""

import numpy as np

from eenet_jax.errors import UserError


def stratified_split(
    labels: np.ndarray, val_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a validation part with the classes' shares of the whole.

    The draw rests on a raw PCG64 stream, which NumPy keeps the same in all versions.

    Args:
      labels: Class of each example, ``[N]``, not negative.
      val_size: Size of the validation part, from 1 to N - 1.
      seed: Seed of the draw.

    Returns:
      Indices of the remaining and of the drawn examples, each ascending. Each class
      gives its share of ``val_size``, rounded down or up.

    Raises:
      UserError: If ``val_size`` does not leave both parts an example.
    """
    if not 1 <= val_size < len(labels):
        raise UserError(
            f"data.val_size={val_size} must be from 1 to {len(labels) - 1}: it is "
            f"taken from {len(labels)} training examples"
        )
    counts = np.bincount(labels)
    shares = counts * val_size / len(labels)
    quotas = np.floor(shares).astype(int)
    largest = np.argsort(quotas - shares, kind="stable")
    quotas[largest[: val_size - quotas.sum()]] += 1
    order = np.lexsort((np.random.PCG64(seed).random_raw(len(labels)), labels))
    rank_in_class = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[order]]
    drawn = np.zeros(len(labels), bool)
    drawn[order] = rank_in_class < quotas[labels[order]]
    return np.flatnonzero(~drawn), np.flatnonzero(drawn)
