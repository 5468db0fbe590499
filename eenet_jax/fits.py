"""Fits of schedulers, kept on disk and used again while nothing has changed."""

import hashlib
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

import eenet_jax
from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.files import write_text
from eenet_jax.predictions import Predictions


def fit_or_reuse(
    name: str,
    predictions: Predictions,
    *,
    budgets: np.ndarray,
    key: jax.Array,
    calibration: float,
    folder: pathlib.Path | None,
    seed: int = 0,
    temperature: bool = False,
    ensemble: bool = False,
) -> tuple[schedulers.Frontier, float, bool]:
    """Fits a scheduler, or reads the same fit back.

    Args:
      name: Of the scheduler.
      predictions: See ``schedulers.fit``.
      budgets: Likewise.
      key: Likewise.
      calibration: Likewise.
      folder: Where fits are kept, as NAME.npz, with what they came from in NAME.json;
        None to keep none.
      seed: Which of several fits of the scheduler; those after the first are kept as
        NAME_seed1 and so on.
      temperature: See ``schedulers.fit``.
      ensemble: Likewise.

    Returns:
      The frontier, the seconds that its fit took (then or now), and whether it was
      read back.
    """
    options = {
        "calibration": calibration,
        "temperature": temperature,
        "ensemble": ensemble,
    }
    if folder is None:
        return *_timed_fit(name, predictions, budgets, key, options), False
    origin = fingerprint(name, predictions, budgets, key, options)
    stem = f"{name}_seed{seed}" if seed else name
    file, note = folder / f"{stem}.npz", folder / f"{stem}.json"
    kept = _read_note(note)
    if kept.get("fingerprint") == origin and file.exists():
        try:
            return schedulers.Frontier.load(file), float(kept["fit_seconds"]), True
        except UserError:
            pass  # damaged: fit anew
    frontier, seconds = _timed_fit(name, predictions, budgets, key, options)
    note.unlink(missing_ok=True)  # it must never stand beside another fit
    frontier.save(file)
    content = {"scheduler": name, "fingerprint": origin, "fit_seconds": seconds}
    write_text(note, json.dumps(content, indent=2) + "\n")
    return frontier, seconds, False


def fingerprint(
    name: str,
    predictions: Predictions,
    budgets: np.ndarray,
    key: jax.Array,
    options: Mapping[str, Any],
) -> str:
    """Returns a hash of all that a fit depends on, the schedulers' code included.

    ``options`` are the other arguments of ``schedulers.fit``.
    """
    chosen = sorted(options.items())
    of_data = predictions.cost_unit, predictions.gate_inputs
    settled = (name, eenet_jax.__version__, chosen, of_data)
    digest = hashlib.sha256(repr(settled).encode())
    for source in sorted(pathlib.Path(schedulers.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    val = predictions.val
    prices = (() if price is None else price for price in predictions.prices)
    arrays = (budgets, jax.random.key_data(key), *prices)
    shown = val.labels, val.confidence, val.confusion, *(val.features or ())
    shown = *shown, predictions.activation_mean
    shown = (array for array in shown if array is not None)
    for array in (*arrays, val.logits, *shown):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _timed_fit(name, predictions, budgets, key, options):
    start = time.perf_counter()
    frontier = schedulers.fit(name, predictions, budgets=budgets, key=key, **options)
    return frontier, time.perf_counter() - start


def _read_note(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
