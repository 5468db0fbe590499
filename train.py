"""Trains a multi-exit network and saves its predictions.

python train.py --config=configs/digits.py --workdir=runs/digits

On many hosts the same command is started on each, with --distributed.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from eenet_jax import errors

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a file of configs/. Its fields are changed with "
    "--config.FIELD=VALUE; configs/default.py explains them all.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, for its config, checkpoints, metrics and predictions. A run "
    "that was stopped goes on from there.",
)


_ALPHA = flags.DEFINE_float(
    "alpha",
    None,
    "Short for --config.gates.alpha: the weight of cost, from 0 to 1, of LEENet's "
    "gates. A finished run trains its gates anew for another.",
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "This is one of several processes that train together, in one workdir that all can "
    "reach. On TPU pods, Slurm, Kubernetes and MPI they find each other; elsewhere "
    "give the three flags below.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first process."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
    """Trains, then writes ``predictions.npz``."""
    del argv
    if not _WORKDIR.value:
        raise errors.UserError("--workdir is missing; give the run a directory")
    config = _CONFIG.value
    if config is None:
        raise errors.UserError("--config is missing; choose a file of configs/")
    try:
        config.lock()
    except OSError as error:  # the file could not be loaded
        raise errors.UserError(
            f"--config: {error}; choose a file of configs/"
        ) from None
    if _ALPHA.value is not None:
        if not config.gates.inputs:
            raise errors.UserError(
                f"--alpha={_ALPHA.value:g} is for gates; give --config.gates.inputs, "
                "say average"
            )
        config.gates.alpha = _ALPHA.value
    for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID):
        if flag.value is not None and not _DISTRIBUTED.value:
            raise errors.UserError(
                f"--{flag.name}={flag.value} is for --distributed; give it too"
            )

    import jax  # JAX starts only once the flags are read

    from eenet_jax import memory, processes, trained
    from eenet_jax.training import loop

    if _DISTRIBUTED.value:
        processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if jax.default_backend() == "cpu":
        memory.keep_freed()
    workdir = pathlib.Path(_WORKDIR.value)
    with processes.ending_together():
        result = loop.train(config, workdir)
        finished = result.resumed_from == result.step
        if finished and processes.is_first() and (workdir / "predictions.npz").exists():
            print(f"{workdir} is finished: step {result.step} of {result.step}.")
        predictions = trained.workdir_predictions(workdir)
        if processes.is_first():
            _report(config, workdir, predictions)
        processes.wait("until the first process has reported")


def _report(config: Any, workdir: pathlib.Path, predictions: Any) -> None:
    """Prints every exit's accuracy and cost; trains the gates where they are asked."""
    from eenet_jax.training import gates

    shares = 100 * (predictions.test.logits.argmax(-1) == predictions.test.labels).mean(
        axis=1
    )
    for k, (cost, share) in enumerate(zip(predictions.costs, shares, strict=True), 1):
        print(
            f"exit {k}: test accuracy {share:.2f} % at {cost:.4g} "
            f"{predictions.cost_unit}"
        )
    if config.gates.inputs:
        left = gates.train_gates(config, predictions, workdir)
        print(
            f"gates, alpha {config.gates.alpha:g}: test accuracy "
            f"{100 * left.accuracy(predictions.test.labels):.2f} % at "
            f"{left.mean_cost:.4g} {predictions.cost_unit} a sample; "
            f"{workdir / gates.FILE}"
        )
    print(f"next: python evaluate.py --workdir={workdir}")


if __name__ == "__main__":
    errors.run(main)
