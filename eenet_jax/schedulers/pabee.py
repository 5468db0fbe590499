"""PABEE's rule: stop once t exits in a row give the same answer (Zhou et al. 2020).

The patience t is a whole number, so only a few costs can be had, and a budget between
two of them is not used up.
"""

import jax
import numpy as np

from eenet_jax.predictions import Predictions
from eenet_jax.schedulers.budget import Frontier, score_split
from eenet_jax.schedulers.candidates import frontier_of, outcome_values
from eenet_jax.schedulers.policy import Policy
from eenet_jax.schedulers.thresholds import realise


def fit(predictions: Predictions, *, budgets: np.ndarray, key: jax.Array) -> Frontier:
    """Tries every patience from 1 (the first exit) to K."""
    del budgets, key
    costs = predictions.costs
    num_exits = len(costs)
    patience = np.arange(1, num_exits + 1, dtype=np.float32)
    thresholds = np.repeat(patience[:, None], num_exits, axis=1)
    thresholds[:, -1] = -np.inf
    policy = Policy("patience", {}, thresholds[0])
    scores = score_split(policy, predictions.val)
    means = realise(scores, thresholds, outcome_values(predictions.val, costs))
    return frontier_of("patience", {}, {}, [thresholds], [means], predictions)
