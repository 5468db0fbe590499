"""One run from its config to its predictions, as ``train.py`` makes it."""

import pathlib

import ml_collections

from eenet_jax import processes, trained
from eenet_jax.predictions import Predictions
from eenet_jax.training import gates, loop


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: range | None = None,
) -> Predictions:
    """Trains, or goes on, and prints how good each exit is; then gates, if any.

    All processes of a run call this; the first prints and trains the gates.

    Returns:
      The run's predictions, which ``predictions.npz`` holds too.

    Raises:
      UserError: As ``loop.train``.
      Preempted: Likewise.
    """
    result = loop.train(config, workdir, profile_steps)
    finished = result.resumed_from == result.step
    if finished and processes.is_first() and (workdir / "predictions.npz").exists():
        print(f"{workdir} is finished: step {result.step} of {result.step}.")
    predictions = trained.workdir_predictions(workdir)
    if processes.is_first():
        _report(config, workdir, predictions)
    processes.wait("until the first process has reported")
    return predictions


def _report(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, predictions: Predictions
) -> None:
    """Prints every exit's accuracy and cost; trains the gates where they are asked."""
    shares = 100 * predictions.test.exit_accuracy
    name = "accuracy" if predictions.metric == "accuracy" else "mIoU"
    for k, (cost, share) in enumerate(zip(predictions.costs, shares, strict=True), 1):
        print(
            f"exit {k}: test {name} {share:.2f} % at {cost:.4g} {predictions.cost_unit}"
        )
    if config.gates.inputs:
        left = gates.train_gates(config, predictions, workdir)
        print(
            f"gates, alpha {config.gates.alpha:g}: test accuracy "
            f"{100 * left.quality(predictions.test):.2f} % at "
            f"{left.mean_cost:.4g} {predictions.cost_unit} a sample; "
            f"{workdir / gates.FILE}"
        )
