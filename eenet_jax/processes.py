"""The processes of a run: one a host, or several; all do the same at the same time.

The first of them writes files and prints; the network, the steps and the checkpoints
are everyone's.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
import zlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from eenet_jax.errors import Preempted, UserError

# Seconds until a process that says nothing any more counts as lost.
HEARTBEAT_S = 30

_ABSENT = (
    "error: --distributed: not all processes came. Start one for each --process_id, "
    "give all of them the same --coordinator_address=HOST:PORT, of process 0, and let "
    "them reach it"
)
_LOST = (
    "error: another process of this run was lost, or ended with an error of its own "
    "(see its output), so this one ended too. Start the same command again for every "
    "process: the run goes on from its last checkpoint"
)


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; before anything else is done with JAX.

    What is None is found out from the surroundings: TPU pods, Slurm, Kubernetes, MPI.

    Args:
      coordinator_address: "host:port" of the first process.
      num_processes: How many there are.
      process_id: Which of them this is, from 0.

    Raises:
      UserError: If the surroundings do not say what is missing, the others are not
        found, or processes have different numbers of devices.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    _say_when_aborted(_ABSENT)
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (ValueError, IndexError, RuntimeError) as error:
        shown = ", ".join(f"--{name}={value}" for name, value in given.items())
        raise UserError(
            f"--distributed ({shown}): the processes do not find each other "
            f"({_first_line(error)}). On TPU pods, Slurm, Kubernetes and MPI leave "
            "these flags out; elsewhere give all three, the same "
            "--coordinator_address=HOST:PORT of the first process to all"
        ) from None
    _say_when_aborted(_LOST)
    count = jax.process_count()
    if jax.local_device_count() * count != jax.device_count():
        raise UserError(
            f"--distributed: process {jax.process_index()} has "
            f"{jax.local_device_count()} of the {jax.device_count()} devices of "
            f"{count} processes; give all of them as many"
        )


def is_first() -> bool:
    """Says whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line on stderr, once for all processes."""
    if is_first():
        print(text, file=sys.stderr)


def wait(name: str) -> None:
    """Waits until all processes are here; ``name`` says where."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_same(what: str, arrays: Iterable[np.ndarray]) -> None:
    """Finds out whether all processes have the same arrays; all call this.

    Raises:
      UserError: In all of them, naming those that have others than the first.
    """
    if jax.process_count() == 1:
        return
    found = 0
    for array in arrays:
        head = f"{array.dtype}{array.shape}".encode()
        found = zlib.crc32(np.ascontiguousarray(array), zlib.crc32(head, found))
    of_all = multihost_utils.process_allgather(np.uint32(found))
    others = np.flatnonzero(of_all != of_all[0]).tolist()
    if others:
        raise UserError(
            f"--distributed: {what} of process {', '.join(map(str, others))} differ "
            "from those of process 0; give all of them the same files"
        )


def as_first(answer: bool) -> bool:
    """Returns the first process's answer to a question, in all of them."""
    return bool(multihost_utils.broadcast_one_to_all(np.int32(answer)))


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once where anything fails, if there are others.

    An ordinary end waits for all, and the others would wait for this one's part of a
    computation. ``Preempted`` passes: it comes to all of them.
    """
    try:
        yield
    except Preempted:
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        try:
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr)
            elif isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
                print(f"{_LOST}\n({_first_line(error)})", file=sys.stderr)
            else:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(1)


def _say_when_aborted(text: str) -> None:
    """Lets a process that JAX aborts, for another is missing, say what to do.

    JAX offers no other way to hear of it. ``abort`` raises the signal in the thread
    that calls it, so the handler may do what a function may.
    """

    def ended(number: int) -> None:
        del number
        try:
            os.write(2, f"{text}\n".encode())
        finally:
            os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    global _handler  # the C library keeps no reference
    _handler = handler


_handler = None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
