"""Checkpoints of a run: the latest and the best, through Orbax."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from eenet_jax.errors import UserError

FOLDER = "checkpoints"
METRIC = "val_accuracy"
UNVALIDATED = -1.0  # accuracy of a state that was saved between validations


def open_checkpoints(
    workdir: pathlib.Path, *, clean: bool = False
) -> ocp.training.Checkpointer:
    """Opens a run's checkpoints.

    The latest and the best are kept; of equally good ones the later counts as best. A
    save that was cut off leaves no checkpoint behind.

    Args:
      workdir: The run's directory.
      clean: Removes what cut-off saves left. For the one process that trains there:
        a reader would take the ground from under a save in progress.
    """
    policies = ocp.training.preservation_policies
    return ocp.training.Checkpointer(
        (workdir / FOLDER).absolute(),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(1), policies.BestN(get_metric_fn=_metric, n=1)]
        ),
        cleanup_tmp_directories=clean,
    )


def save(
    checkpointer: ocp.training.Checkpointer, step: int, state: Any, accuracy: float
) -> None:
    """Starts saving a state; training may go on and donate its buffers.

    Args:
      checkpointer: Where to.
      step: Steps done.
      state: The ``TrainState``.
      accuracy: Mean validation accuracy over exits, by which "best" is chosen; or
        UNVALIDATED, which is never the best while there are others.
    """
    copy = jax.tree.map(jnp.copy, state.stored())
    checkpointer.save_async(step, copy, metrics={METRIC: accuracy})


def saved_steps(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the validation accuracy of each whole checkpoint by its step.

    Raises:
      UserError: If what stands beside a checkpoint is damaged.
    """
    folder = workdir / FOLDER
    if not folder.is_dir():
        return {}
    try:
        with open_checkpoints(workdir) as checkpointer:
            return {c.step: _metric(c.metrics) for c in checkpointer.checkpoints}
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f"the metrics of a checkpoint in {folder} are damaged or missing "
            f"({error}); delete the directory of that step to go on from another one"
        ) from None


def choose_step(workdir: pathlib.Path, which: str) -> int:
    """Returns the step that "best", "latest" or a number names.

    Raises:
      UserError: If the run has no checkpoint, or not that one.
    """
    found = saved_steps(workdir)
    if not found:
        raise UserError(f"{workdir} holds no whole checkpoint; train there first")
    if which == "latest":
        return max(found)
    if which == "best":
        return max(found, key=lambda step: (found[step], step))
    if not which.isdigit() or int(which) not in found:
        raise UserError(
            f"--checkpoint={which} is not there; choose best, latest or one of "
            f"{sorted(found)}"
        )
    return int(which)


def restore(workdir: pathlib.Path, step: int, abstract: Any) -> Any:
    """Reads a checkpoint.

    Args:
      workdir: The run's directory.
      step: Which.
      abstract: A ``TrainState`` of what it must hold: ``jax.ShapeDtypeStruct`` leaves,
        with the shardings that the arrays are to have.

    Raises:
      UserError: If it is damaged or does not fit.
    """
    path = workdir / FOLDER / str(step)
    try:
        with open_checkpoints(workdir) as checkpointer:
            return abstract.replace(**checkpointer.load(step, abstract.stored()))
    except TimeoutError:  # another process of the run was lost
        raise
    except Exception as error:  # Orbax has no common class for a damaged checkpoint
        reason = str(error).strip().splitlines()[0][:200] if str(error) else repr(error)
        raise UserError(
            f"the checkpoint {path} is damaged or does not fit its config.json "
            f"({reason}); delete that directory to go on from an older checkpoint, or "
            "from the start"
        ) from error


def restore_as_saved(workdir: pathlib.Path, step: int) -> Any:
    """Reads a checkpoint of whatever network: nested dicts of host arrays.

    Raises:
      UserError: If it is damaged.
    """
    path = workdir / FOLDER / str(step)
    try:
        with open_checkpoints(workdir) as checkpointer:
            saved = checkpointer.metadata(step).metadata
            # Asked for as NumPy: the devices it was saved from may be others.
            hosted = jax.tree.map(lambda a: np.empty(a.shape, a.dtype), saved)
            return checkpointer.load(step, hosted)
    except TimeoutError:  # as above
        raise
    except Exception as error:  # as above
        raise UserError(f"the checkpoint {path} is damaged ({error})") from error


def _metric(metrics: Any) -> float:
    return float(metrics[METRIC])
