"""Writes bundles: a network with a policy, to be run without its code."""

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eenet_jax
from eenet_jax.backbones.staged import Backbone
from eenet_jax.errors import UserError
from eenet_jax.runtime import bundle_files, programs
from eenet_jax.runtime.checks import check_policy
from eenet_jax.runtime.export_inputs import Inputs
from eenet_jax.runtime.staged import Ladders, check_ladders, default_ladders
from eenet_jax.schedulers.policy import Policy
from eenet_jax.writers import Progress

BATCH_SIZES = (1, 64)
PLATFORMS = ("cpu", "cuda", "tpu")


def export_bundle(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    out: str | pathlib.Path,
    *,
    inputs: Inputs,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    platforms: Sequence[str] = PLATFORMS,
    ladders: Mapping[int, Ladders] | None = None,
    class_names: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes a bundle, whole or not at all.

    Args:
      backbone: The network.
      variables: Its variables.
      policy: For this network's exits and classes.
      out: Directory to make.
      inputs: What the network reads, and how data become that.
      batch_sizes: Programs to export; any number of samples can be answered with them.
      platforms: Devices to export for, as ``jax.export`` names them.
      ladders: By batch size, as ``adaptive_predict`` takes them; ``default_ladders``
        for those not given.
      class_names: One per class, or None.
      notes: What else the manifest should say; ready for JSON.

    Returns:
      The manifest.

    Raises:
      UserError: If ``out`` is there, or policy, sizes or platforms do not fit.
    """
    out = pathlib.Path(out)
    check_absent(out)
    check_policy(backbone, policy)
    platforms = programs.check_platforms(platforms)
    chosen = _ladders(backbone, batch_sizes, ladders or {})
    variables, policy = jax.tree.map(jnp.asarray, (variables, policy))
    temporary = out.with_name(f".{out.name}.tmp{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        fields = {
            "eenet_jax": eenet_jax.__version__,
            "jax": jax.__version__,
            "network": backbone.name,
            "num_exits": backbone.num_exits,
            "num_classes": backbone.num_classes,
            "answer_shape": list(
                backbone.answer_shape(variables, inputs.example(1, inputs.lengths()[0]))
            ),
            "dtype": backbone.dtype,
            "class_names": None if class_names is None else list(class_names),
            "input": inputs.write(temporary, backbone),
            "policy": _policy_facts(policy),
            "notes": dict(notes or {}),
            "platforms": list(platforms),
            "batch_sizes": list(chosen),
            "weights": _write_weights(temporary, variables, policy),
            **_write_programs(
                temporary, backbone, variables, policy, inputs, chosen, platforms
            ),
        }
        bundle_files.write_manifest(temporary, fields)
        os.rename(temporary, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle_files.read_manifest(out)


def check_absent(out: pathlib.Path) -> None:
    """Raises a UserError if there is something at ``out``: bundles replace nothing."""
    if out.exists():
        raise UserError(f"--out={out} is there already; remove it or name another")


def _ladders(
    backbone: Backbone, batch_sizes: Sequence[int], given: Mapping[int, Ladders]
) -> dict[int, Ladders]:
    """Returns the ladders of each batch size, by rising size."""
    flag = f"--batch_sizes={','.join(map(str, batch_sizes))}"
    if not batch_sizes or min(batch_sizes) < 1:
        raise UserError(f"{flag} must be one or more numbers from 1, with commas")
    for size in given.keys() - set(batch_sizes):
        raise UserError(
            f"sizes were planned for batches of {size}, which {flag} lacks; add {size}"
        )
    chosen = {}
    for size in sorted(set(batch_sizes)):
        chosen[size] = given.get(size) or default_ladders(backbone.num_exits, size)
        check_ladders(chosen[size], backbone.num_exits, size)
    return chosen


def _policy_facts(policy: Policy) -> dict[str, Any]:
    """Describes the policy; infinite thresholds, which JSON lacks, as text."""
    thresholds = np.asarray(policy.thresholds).tolist()
    return {
        "scorer": policy.scorer,
        "thresholds": [t if np.isfinite(t) else str(t) for t in thresholds],
        "adjusted": policy.adjustment is not None,
    }


def _write_weights(
    folder: pathlib.Path, variables: Any, policy: Policy
) -> dict[str, list[str]]:
    """Writes all leaves and returns their names, in the order of the programs."""
    arrays, names = {}, {}
    for group, tree in (("network", variables), ("policy", policy)):
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        names[group] = []
        for path, leaf in leaves:
            name = f"{group}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
            arrays[name] = np.asarray(leaf)
            names[group].append(name)
    np.savez(folder / bundle_files.WEIGHTS, **arrays)
    return names


def _write_programs(
    folder: pathlib.Path,
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    inputs: Inputs,
    ladders: Mapping[int, Ladders],
    platforms: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Lowers and writes all programs; returns what the manifest says of them."""
    entries: dict[str, list[dict[str, Any]]] = {"programs": [], "stages": []}
    lengths = inputs.lengths()
    progress = Progress(len(lengths) * (len(ladders) + 1), 0, "program")
    for length in lengths:
        suffix = ".jaxexport" if length is None else f"_length_{length}.jaxexport"
        for size, steps in ladders.items():
            x = inputs.example(size, length)
            data = programs.lower_batch(
                backbone, variables, policy, x, steps, platforms
            )
            file = f"batch_{size}{suffix}"
            (folder / file).write_bytes(data)
            entry = {"batch_size": size, "length": length, "ladders": steps}
            entries["programs"].append({"file": file, **entry})
            progress.update(1, "export")
        x = inputs.example(1, length)
        pieces = programs.lower_stages(backbone, variables, x, platforms)
        for k, piece in enumerate(pieces):
            entry = {"file": None, "stage": k, "length": length, "reason": None}
            if isinstance(piece, str):
                entry["reason"] = piece
            else:
                entry["file"] = f"stage_{k}{suffix}"
                (folder / entry["file"]).write_bytes(piece)
            entries["stages"].append(entry)
        progress.update(1, "export")
    progress.close()
    return entries
