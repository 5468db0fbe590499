"""The C library's allocator, told to keep freed memory for what needs it next."""

import ctypes
import importlib.metadata
import importlib.util
import sys

import jax

# Names of malloc.h; values of -1 and 0 turn trimming and mmap off.
_SETTINGS = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}


def keep_freed() -> bool:
    """Lets a process that computes on CPUs keep the memory it frees.

    XLA on CPUs takes a program's working memory, up to gigabytes, anew in every call.
    glibc gives it back to the system in between, which then clears its pages again: up
    to a third of a forward pass (``benchmarks/train_step.py --give_back`` is without).
    The price: the heap grows for the first calls, to up to three times what they need,
    and the process keeps its largest size until it ends.

    Call it before JAX starts its backend. Threads that are there by then keep the parts
    of the heap they have, and large blocks of theirs are given back whatever is set.

    Returns:
      Whether the C library was told so: only glibc can be, and is not where JAX may
      find an accelerator.
    """
    if not sys.platform.startswith("linux") or _may_have_accelerator():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(*setting) == 1 for setting in _SETTINGS.values()])


def _may_have_accelerator() -> bool:
    """Asks without starting JAX: what is it told to use, or else has plugins for?"""
    platforms = jax.config.jax_platforms
    if platforms:
        return set(platforms.split(",")) != {"cpu"}
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
