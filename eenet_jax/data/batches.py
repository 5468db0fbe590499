"""Which samples make up which batch; host-side NumPy, no images touched."""

from collections.abc import Sequence

import numpy as np

from eenet_jax.errors import UserError


def epoch_indices(
    seed: int, epoch: int, num_samples: int, batch_size: int
) -> np.ndarray:
    """Draws the batches of one training epoch.

    Every epoch is a fresh permutation that depends on ``seed`` and ``epoch`` alone, so
    a resumed run sees the batches it would have seen. The ``num_samples % batch_size``
    samples at the permutation's end sit this epoch out.

    Args:
      seed: The run's seed, not negative.
      epoch: Which epoch, from 0.
      num_samples: Size of the training split, N.
      batch_size: Samples a step over all devices, B.

    Returns:
      int32 ``[N // B, B]``, no index twice.

    Raises:
      UserError: If a batch is larger than the training split.
    """
    if not 1 <= batch_size <= num_samples:
        raise UserError(
            f"train.batch_size={batch_size} must be from 1 to the {num_samples} "
            f"training examples; take a batch of at most {num_samples}"
        )
    steps = num_samples // batch_size
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def grouped_epoch_indices(
    seed: int, epoch: int, sizes: Sequence[int], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the batches of one epoch where a batch must be of one group.

    Groups are length buckets of text. Each is shuffled and cut into batches, and the
    batches of all are shuffled; each group's rest sits this epoch out.

    Args:
      seed: The run's seed, not negative.
      epoch: Which epoch, from 0.
      sizes: Samples of each group.
      batch_size: Samples a step over all devices, B.

    Returns:
      Group of each step, int ``[S]``, and rows within that group, int32 ``[S, B]``,
      with S = sum over groups of ``size // B``.
    """
    rng = np.random.default_rng([seed, epoch])
    rows = [rng.permutation(size)[: size // batch_size * batch_size] for size in sizes]
    rows = [part.reshape(-1, batch_size) for part in rows]
    groups = np.repeat(np.arange(len(sizes)), [len(part) for part in rows])
    order = rng.permutation(len(groups))
    return groups[order], np.concatenate(rows)[order].astype(np.int32)


def eval_batches(num_samples: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a split into batches of one shape; the last is padded and masked.

    Args:
      num_samples: Size of the split, N, at least 1.
      batch_size: Samples a step over all devices, B, at least 1; may exceed N.

    Returns:
      ``indices`` int32 ``[S, B]`` with S = ceil(N / B), samples in order, padding 0;
      ``mask`` bool ``[S, B]``, True on exactly the N real entries.

    Raises:
      UserError: If either size is below 1.
    """
    if num_samples < 1 or batch_size < 1:
        raise UserError(
            f"cannot cut num_samples={num_samples} into batches of "
            f"batch_size={batch_size}: both must be at least 1"
        )
    steps = -(-num_samples // batch_size)
    flat = np.arange(steps * batch_size, dtype=np.int32)
    mask = flat < num_samples
    indices = np.where(mask, flat, 0)
    return indices.reshape(steps, batch_size), mask.reshape(steps, batch_size)
