"""Processes that load samples ahead of their use, in order.

A process pool of the standard library. Its workers are spawned, not forked (JAX has
threads), and take small pieces of a batch, so that the first batch comes soon and a
slow image holds up little.
"""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from eenet_jax.errors import UserError

PIECE = 16  # samples a worker takes at a time

Arrays = tuple[np.ndarray, ...]
Load = Callable[..., Arrays]


def loaded(
    load: Load, tasks: Iterable[tuple[Any, ...]], num_workers: int
) -> Iterator[Arrays]:
    """Yields ``load(*task)`` of each task, in the tasks' order.

    Workers start with the first task that is asked for, are about two tasks or two
    pieces each ahead, and end with the last task or when the iterator is closed.

    Args:
      load: Returns arrays ``[n, ...]`` for a task whose last item is an int array
        ``[n]``. Cutting that array, and joining the results, must not change them.
        It is sent to each worker once.
      tasks: Small tuples, sent as they are due.
      num_workers: Processes; 0 loads in this one, when asked for.

    Raises:
      UserError: What ``load`` raises, or that a worker died.
    """
    if num_workers == 0:
        for task in tasks:
            yield load(*task)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(load,),
    )
    pending: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    try:
        for *fixed, samples in tasks:
            pieces = np.array_split(samples, max(1, -(-len(samples) // PIECE)))
            pending.append([pool.submit(_run, *fixed, piece) for piece in pieces])
            if len(pending) > max(2, -(-2 * num_workers // len(pieces))):
                yield _joined(pending.popleft())
        while pending:
            yield _joined(pending.popleft())
    except BrokenProcessPool as error:
        for worker in multiprocessing.active_children():
            worker.kill()  # the pool would ask them with SIGTERM, and wait
        raise UserError(
            f"one of data.num_workers={num_workers} processes that load images "
            "died; if stderr has no reason above, memory ran out: take fewer of them"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(pieces: list[concurrent.futures.Future]) -> Arrays:
    parts = [piece.result() for piece in pieces]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


# In the workers.

_load: Load | None = None


def _start(load: Load) -> None:
    """Keeps ``load``; leaves Ctrl-C and SIGTERM to the parent, and ends with it.

    The system may send them to all processes; the parent then still needs samples, to
    stop where the run's other processes do.
    """
    global _load
    _load = load
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # it was killed; otherwise the pool ends this process first


def _run(*task: Any) -> Arrays:
    return _load(*task)
