"""Metrics on disk (JSON lines, TensorBoard) and progress on the terminal."""

import json
import pathlib
import sys
from collections.abc import Mapping

from tqdm import tqdm

from eenet_jax.files import write_text


class MetricWriter:
    """Appends scalars to ``metrics.jsonl`` and to TensorBoard events.

    Lines of steps after ``resume_step`` are dropped on opening: an interrupted run
    wrote them, and the resumed one writes them again.
    """

    def __init__(self, workdir: pathlib.Path, resume_step: int):
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, resume_step)
        self._file = self._path.open("a", encoding="utf-8")
        from tensorboardX import SummaryWriter  # slow to import

        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1
        )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line ``{"step": step, name: value, ...}``."""
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._events.close()


class NoWriter:
    """Takes scalars and writes nothing, in all processes of a run but the first."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _drop_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the torn last line of a killed run
    write_text(path, "".join(kept))


class Progress:
    """A bar on a terminal, plain lines elsewhere; both on stderr.

    Args:
      total: What there is to do.
      done: What is done already.
      unit: What is counted, in the singular.
      shown: False for silence, in all processes of a run but the first.
    """

    def __init__(self, total: int, done: int, unit: str, *, shown: bool = True):
        self._shown = shown
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            disable=not (shown and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def update(self, count: int, note: str = "") -> None:
        """Moves the bar; ``note`` stands behind it."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        if self._shown:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
