"""Held-out samples, and what they certify of a frontier's candidates."""

import dataclasses

import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.schedulers.guarantee import last_certified


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What the candidates do with samples that none of them was fitted to.

    Attributes:
      exits: Exit taken, uint8 ``[M, N]``.
      correct: Whether exit k is right about sample n, bool ``[K, N]``.
      costs: What each candidate is charged at each exit, ``[M, K]``; where that differs
        from sample to sample, the least and the most that it can be are among them.
      spent: There, what each sample costs, ``[M, N]``; else None.
    """

    exits: np.ndarray
    correct: np.ndarray
    costs: np.ndarray
    spent: np.ndarray | None = None

    def certify_cost(self, path: np.ndarray, budget: float, confidence: float) -> int:
        """Returns the last place on a path, from cheap to dear, that keeps a budget.

        Args:
          path: Candidates, by rising cost; the first stops everyone at exit 1.
          budget: Mean cost on new data that must not be exceeded.
          confidence: Probability that it is not.

        Returns:
          A place in ``path``; 0 if nothing dearer can be certified.
        """
        low, high = self.costs.min(), self.costs.max()
        span = high - low or high
        shape = len(self.exits), len(self.correct)  # older fits have [K]
        costs = np.broadcast_to(self.costs, shape)
        values = ((self._spent(m, costs) - low) / span for m in path[1:])
        return 1 + last_certified(values, (budget - low) / span, confidence)

    def _spent(self, m: int, costs: np.ndarray) -> np.ndarray:
        return costs[m][self.exits[m]] if self.spent is None else self.spent[m]

    def certify_drop(self, path: np.ndarray, max_drop: float, confidence: float) -> int:
        """Returns the last place on a path, from dear to cheap, that keeps accuracy.

        Args:
          path: Candidates; the first sends all samples to the last exit.
          max_drop: How far accuracy on new data may fall below the last exit's.
          confidence: Probability that it does not fall further.

        Returns:
          A place in ``path``; 0 if no saving can be certified.
        """
        if not 0 <= max_drop < 1:
            raise UserError(f"--max_drop={max_drop} must be in [0, 1), e.g. 0.005")
        columns = np.arange(self.correct.shape[1])
        full = self.correct[-1].astype(float)
        drops = (full - self.correct[self.exits[m], columns] for m in path[1:])
        values = ((1 + drop) / 2 for drop in drops)
        return 1 + last_certified(values, (1 + max_drop) / 2, confidence)


def held_out(held: HeldOut | None, confidence: float) -> HeldOut:
    """Returns the held-out samples, or says why there is no guarantee.

    Raises:
      UserError: If there are none, or the confidence is out of range.
    """
    if not 0 < confidence < 1:
        raise UserError(f"--confidence={confidence} must be in (0, 1), e.g. 0.95")
    if held is None:
        raise UserError(
            f"confidence={confidence} needs samples that the scheduler was not fitted "
            "to; fit it with calibration=0.5, say"
        )
    return held
