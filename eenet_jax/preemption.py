"""SIGTERM: the notice that a run has to leave its machines soon."""

import signal
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils

from eenet_jax.errors import Preempted


class Notice:
    """Whether the run was told to stop; a context manager around the training.

    A process alone hears SIGTERM itself. Of several, JAX hears it for any of them, and
    all are told at the same step.
    """

    def __init__(self):
        self._came = False
        self._before: Any = None
        self._alone = not jax.distributed.is_initialized()

    def __enter__(self) -> "Notice":
        # Python lets only its main thread take signals.
        if self._alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._came and kind is None:
            raise Preempted(
                "stopped by SIGTERM at the end of training, which is saved; the same "
                "command goes on from there"
            )

    def reached(self, first: int, stop: int) -> bool:
        """Says whether to stop before steps first..stop-1.

        Every step is asked about once, in order, by all processes.
        """
        if self._alone:
            return self._came
        return any(
            map(multihost_utils.reached_preemption_sync_point, range(first, stop))
        )

    def _take(self, number: int, frame: Any) -> None:
        del number, frame
        self._came = True
