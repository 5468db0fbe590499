"""The C library's allocator, told to keep freed memory for what needs it next."""

import ctypes
import importlib.metadata
import importlib.util
import sys

import jax

# Names of malloc.h; values of -1 and 0 turn trimming and mmap off.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, -1),
}


def keep_freed() -> bool:
    """Lets a process that computes on CPUs keep the memory it frees.

    XLA on CPUs takes a program's working memory, up to gigabytes, anew in every call.
    glibc gives it back to the system in between, which then clears its pages again: up
    to a third of a forward pass (``benchmarks/train_step.py --give_back`` is without).
    The price: the process keeps its largest size until it ends.

    Call it before JAX starts its backend, whose calls it has run in the thread that
    makes them: threads of XLA's have small heaps of their own, and blocks of more than
    64 MB are given back there whatever is set.

    Returns:
      Whether the C library was told so: only glibc can be, and is not where JAX may
      find an accelerator.
    """
    if not sys.platform.startswith("linux") or _may_have_accelerator():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return all([mallopt(*setting) == 1 for setting in _SETTINGS.values()])


def _may_have_accelerator() -> bool:
    """Asks without starting JAX: what is it told to use, or else has plugins for?"""
    platforms = jax.config.jax_platforms
    if platforms:
        return set(platforms.split(",")) != {"cpu"}
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
