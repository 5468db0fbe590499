"""The last phase of LEENet's training: gates, for one weight of cost."""

import pathlib

import jax
import ml_collections

from eenet_jax import schedulers
from eenet_jax.predictions import Predictions
from eenet_jax.runtime.replay import Decisions, simulate
from eenet_jax.schedulers import leenet

FILE = pathlib.Path("policies") / "gates.npz"


def train_gates(
    config: ml_collections.ConfigDict, predictions: Predictions, workdir: pathlib.Path
) -> Decisions:
    """Trains the gates of ``config.gates.alpha`` and saves them as a policy.

    They are trained on the validation part: the exits have seen the training part, and
    are surer of it than of other images.

    Args:
      config: With ``gates.inputs``.
      predictions: Of the trained network, with features.
      workdir: Of the run; ``policies/gates.npz`` is written there.

    Returns:
      What they do on the test part.
    """
    policy = leenet.fit_alpha(
        predictions, config.gates.alpha, key=jax.random.key(config.seed)
    )
    schedulers.save_policy(workdir / FILE, policy)
    return simulate(policy, predictions.test, *predictions.prices)
