"""A trace of some training steps, for TensorBoard's profiler, XProf or Perfetto."""

import pathlib
from typing import Any

import jax

from eenet_jax import processes
from eenet_jax.errors import UserError

FOLDER = "trace"  # in the workdir; each process of a run writes its own file there


def parse_steps(text: str) -> range:
    """Reads ``--profile_steps``: "10:15" is steps 10 to 14, counted from 0.

    Raises:
      UserError: If it is no such range, or an empty one.
    """
    first, _, stop = text.partition(":")
    if not (first.isdecimal() and stop.isdecimal() and int(first) < int(stop)):
        raise UserError(
            f"--profile_steps={text} must be FIRST:STOP, whole numbers as in 10:15"
        )
    return range(int(first), int(stop))


class Trace:
    """Records what the devices do in the calls that take some of the steps.

    Args:
      steps: Which, counted from 0; None records nothing.
      workdir: The run's directory.
    """

    def __init__(self, steps: range | None, workdir: pathlib.Path):
        self._steps = steps
        self._folder = workdir / FOLDER
        self._on = False

    def before(self, step: int, count: int) -> None:
        """Starts before a call that takes steps step..step+count-1, if it is one."""
        if self._steps is None or self._on:
            return
        if step < self._steps.stop and step + count > self._steps.start:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, state: Any) -> None:
        """Stops once ``step`` steps are done, if they are all; waits for ``state``."""
        if self._on and step >= self._steps.stop:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes what has been recorded."""
        if self._on:
            jax.profiler.stop_trace()
            self._on, self._steps = False, None
            processes.say(f"trace: {self._folder}")
