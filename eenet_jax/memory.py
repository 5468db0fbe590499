"""The C library's allocator, told to keep freed memory for what needs it next."""

import ctypes
import sys

# Names of malloc.h; values of -1 and 0 turn trimming and mmap off.
_SETTINGS = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}


def keep_freed() -> bool:
    """Lets the process keep the memory it frees; call it before the first computation.

    XLA on CPUs takes a training step's working memory, gigabytes, anew in every step.
    glibc would give it back to the system in between, which then clears its pages
    again: up to a third of a step (``benchmarks/train_step.py``). The process keeps its
    largest size until it ends.

    Returns:
      Whether the C library can be told so; only glibc can.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(*setting) == 1 for setting in _SETTINGS.values()])
