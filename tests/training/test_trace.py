"""A trace of some steps: when it starts and stops, and that it is there."""

import pytest

from eenet_jax.errors import UserError
from eenet_jax.training import loop, trace


def test_steps_are_read():
    assert trace.parse_steps("10:15") == range(10, 15)
    for text in ("", "5", "5:5", "6:5", "a:b", "-1:3", "1.5:2"):
        with pytest.raises(UserError, match=f"--profile_steps={text} must be FIRST"):
            trace.parse_steps(text)


def test_calls_that_take_some_of_the_steps_are_recorded(tmp_path, monkeypatch):
    done = []
    profiler = trace.jax.profiler
    monkeypatch.setattr(profiler, "start_trace", lambda folder: done.append("start"))
    monkeypatch.setattr(profiler, "stop_trace", lambda: done.append("stop"))
    recorded = trace.Trace(range(3, 6), tmp_path)
    for step in range(0, 12, 2):  # calls of two steps
        recorded.before(step, 2)
        done.append(step)
        recorded.after(step + 2, None)
    recorded.close()
    assert done == [0, "start", 2, 4, "stop", 6, 8, 10]
    nothing = trace.Trace(None, tmp_path)
    nothing.before(0, 2)
    nothing.after(2, None)
    nothing.close()
    assert len(done) == 8


@pytest.mark.slow
def test_a_run_writes_its_trace(tmp_path, small_config):
    loop.train(small_config(train__max_steps=4), tmp_path, range(1, 3))
    (file,) = (tmp_path / trace.FOLDER).rglob("*.xplane.pb")
    assert file.stat().st_size > 0
