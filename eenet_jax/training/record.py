"""What a run says of itself while it goes: metrics, progress, and the stop at NaN."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from eenet_jax.errors import UserError
from eenet_jax.writers import MetricWriter, NoWriter, Progress


class Recorder:
    """Takes the metrics of chunks and writes them one chunk late.

    ``metric`` is what validation measures: "accuracy" or "miou".

    Reading a chunk's metrics waits for it to be computed; by then the next one has been
    dispatched, so the devices never wait for the log.
    """

    def __init__(
        self,
        writer: MetricWriter | NoWriter,
        progress: Progress,
        *,
        schedule: optax.Schedule,
        steps_per_epoch: int,
        batch_size: int,
        metric: str = "accuracy",
    ):
        self._writer = writer
        self._progress = progress
        self._schedule = schedule
        self._steps_per_epoch = steps_per_epoch
        self._batch_size, self._metric = batch_size, metric
        self._pending: tuple[int, Any, float | None] | None = None
        self._clock = time.perf_counter()

    def chunk(
        self, end_step: int, metrics: Sequence[Any], input_wait: float | None = None
    ) -> None:
        """Takes the metrics of steps up to ``end_step``; writes the previous ones.

        Args:
          end_step: Steps done after the chunk.
          metrics: Results of ``run_chunk``, each stacked over its steps.
          input_wait: Share of the time spent waiting for input, where it is streamed.
        """
        self.flush()
        self._pending = (end_step, metrics, input_wait)

    def flush(self) -> None:
        """Writes what is pending.

        Raises:
          UserError: If a loss was not finite, naming the step and the loss.
        """
        if self._pending is None:
            return
        end_step, metrics, input_wait = self._pending
        self._pending = None
        metrics = jax.tree.map(
            lambda *parts: np.concatenate(parts), *jax.device_get(list(metrics))
        )
        losses = metrics["loss"]
        count = len(losses)
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            raise UserError(
                f"the loss is {losses[bad[0]]} at step {end_step - count + bad[0] + 1}:"
                " training stopped, the last checkpoint stands. Lower "
                "optimizer.learning_rate, or set optimizer.clip_norm or "
                "schedule.warmup_epochs"
            )
        now = time.perf_counter()
        rate = count * self._batch_size / max(now - self._clock, 1e-9)
        self._clock = now
        loss = float(losses.mean())
        scalars = {
            "epoch": end_step / self._steps_per_epoch,
            "train/loss": loss,
            "train/learning_rate": float(self._schedule(end_step - 1)),
            "train/samples_per_second": rate,
            **per_exit("train/accuracy", metrics["correct"].mean(axis=0)),
        }
        note = f"loss {loss:.4f}, {rate:.0f} samples/s"
        if input_wait is not None:
            scalars["train/input_wait"] = input_wait
            note += f", {100 * input_wait:.0f} % of it waiting for input"
        self._writer.write(end_step, scalars)
        self._progress.update(count, note)

    def validation(self, step: int, accuracy: np.ndarray) -> None:
        """Writes the validation accuracy (or mean IoU) of each exit, ``[K]``."""
        name = f"val/{self._metric}"
        scalars = per_exit(name, accuracy)
        self._writer.write(step, {**scalars, f"{name}/mean": accuracy.mean()})
        shown = " ".join(f"{100 * a:.2f}" for a in accuracy)
        epoch = step / self._steps_per_epoch
        said = {"miou": "mIoU"}.get(self._metric, self._metric)
        self._progress.line(
            f"step {step}, epoch {epoch:.4g}: validation {said} by exit {shown} %"
        )
        self._clock = time.perf_counter()

    def close(self) -> None:
        """Closes the files and leaves the bar as it stands."""
        self._writer.close()
        self._progress.close()


def per_exit(name: str, values: np.ndarray) -> dict[str, float]:
    """Returns ``{"name/exit_1": ..., "name/exit_2": ...}``."""
    return {f"{name}/exit_{k}": float(v) for k, v in enumerate(values, start=1)}
