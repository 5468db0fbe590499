"""Timing of calls."""

from types import SimpleNamespace

import numpy as np

from eenet_jax import stopwatch


def test_functions_take_turns_and_the_first_rounds_do_not_count(monkeypatch):
    took = {"a": [900, 90, 8, 80, 4], "b": [700, 70, 2, 3, 6]}  # ms, round by round
    now, calls = [0.0], []

    def call(name):
        now[0] += took[name][calls.count(name)] / 1e3
        calls.append(name)

    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    measured = stopwatch.take_turns({n: lambda n=n: call(n) for n in took}, 3)
    assert calls == ["a", "b"] * 5
    np.testing.assert_allclose(measured["a"], [8, 80, 4])
    np.testing.assert_allclose(measured["b"], [2, 3, 6])
