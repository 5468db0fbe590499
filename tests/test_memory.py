"""Freed memory is kept where JAX computes on CPUs, and only there."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import jax
import pytest

from eenet_jax import memory

GLIBC = platform.libc_ver()[0] == "glibc"
# The outer product takes 100 MB, more than glibc gives a thread from a heap of its own.
# What is kept settles within ten calls, since other things are put into it at first.
PROGRAM = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from eenet_jax import memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    memory.keep_freed()
step = jax.jit(lambda x: jnp.outer(x, x) @ x)
x = jnp.arange(5000.0)
found = []
for _ in range(30):
    before = faults()
    step(x).block_until_ready()
    found.append(faults() - before)
print(int(statistics.median(found[15:])))
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_a_call_finds_its_memory_where_the_last_one_left_it(root):
    def faults(what):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, what],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout)

    assert faults("keep") < 0.1 * faults("give back")


@pytest.mark.parametrize(
    ("platforms", "plugins", "kept"),
    [
        ("cpu", ["cuda"], GLIBC),
        ("cuda,cpu", [], False),
        ("", ["cuda"], False),
        ("", [], GLIBC),
    ],
)
def test_only_where_there_is_no_accelerator(monkeypatch, platforms, plugins, kept):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert memory.keep_freed() == kept
    finally:
        jax.config.update("jax_platforms", before)
        jax.config.update("jax_cpu_enable_async_dispatch", True)
