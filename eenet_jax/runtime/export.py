"""Exports a trained network with a policy as a bundle that runs without this code.

    python -m eenet_jax.runtime.export --workdir=runs/digits --budget=2 --out=bundle

A bundle has the whole adaptive program for each batch size, for every kind of device
asked for. ``runtime.predict`` answers with it, and in Python
``runtime.bundle.load_bundle``.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from eenet_jax import errors
from eenet_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run of train.py.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Which of the run's checkpoints: best, latest, or a step."
)
_POLICY = flags.DEFINE_string(
    "policy",
    None,
    "A saved policy, or a fit of policies/, which takes --budget; by default "
    "WORKDIR/policies/lagrangian.npz, with --int8 WORKDIR/int8/policies/....",
)
_BUDGET = flags.DEFINE_float(
    "budget", None, "Mean cost per sample to keep, in the unit of the fit."
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["1", "64"], "Samples a batch, one or more."
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", ["cpu", "cuda", "tpu"], "Devices to export for: cpu, cuda, rocm, tpu."
)
_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "Latency profile of the device to run on, whose plan is used for batches of its "
    "size; it must be one of --batch_sizes.",
)
_INT8 = flags.DEFINE_boolean("int8", False, "Export the network in int8.")
_OUT = flags.DEFINE_string("out", None, "Directory to write; must not be there yet.")


def choose_policy(path: pathlib.Path, budget: float | None) -> tuple[Any, dict]:
    """Returns a saved policy, or a fit's for the budget, and what to note of it."""
    from eenet_jax.schedulers import Frontier, load

    saved = load(path)
    if not isinstance(saved, Frontier):
        if budget is not None:
            raise UserError(f"{path} holds one policy; leave out --budget={budget:g}")
        return saved, {"policy_file": path.name}
    if budget is None:
        low, high = saved.val_cost.min(), saved.val_cost.max()
        raise UserError(
            f"{path} holds policies for every budget; give --budget, from {low:.4g} to "
            f"{high:.4g} {saved.cost_unit}"
        )
    notes = {"policy_file": path.name, "budget": budget, "cost_unit": saved.cost_unit}
    return saved.for_budget(budget), notes


def main(argv: Sequence[str]) -> None:
    """Exports a run and prints what was written."""
    del argv
    from eenet_jax.costs.profile import load_profile
    from eenet_jax.runtime import bundle_writer
    from eenet_jax.runtime.export_inputs import inputs_of
    from eenet_jax.runtime.plan import plan_ladders
    from eenet_jax.trained import load_trained, reports_dir

    for flag in (_WORKDIR, _OUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; give a directory")
    if not all(size.strip().isdecimal() for size in _BATCH_SIZES.value):
        raise UserError(
            f"--batch_sizes={','.join(_BATCH_SIZES.value)} must be whole numbers, with "
            "commas between"
        )
    out = pathlib.Path(_OUT.value)
    bundle_writer.check_absent(out)
    folder = reports_dir(_WORKDIR.value, _INT8.value)
    default = folder / "policies" / "lagrangian.npz"
    if _POLICY.value is None and not default.exists():
        raise UserError(
            f"{default} is not there; run evaluate.py --workdir={_WORKDIR.value} "
            "first, or give --policy"
        )
    policy, notes = choose_policy(pathlib.Path(_POLICY.value or default), _BUDGET.value)
    run = load_trained(_WORKDIR.value, _CHECKPOINT.value, int8=_INT8.value)
    ladders = {}
    if _PROFILE.value is not None:
        plan = load_profile(_PROFILE.value, run.backbone)
        ladders[plan.batch_size] = plan_ladders(plan).ladders
    manifest = bundle_writer.export_bundle(
        run.backbone,
        run.variables,
        policy,
        out,
        inputs=inputs_of(run),
        batch_sizes=[int(size) for size in _BATCH_SIZES.value],
        platforms=[name.strip() for name in _PLATFORMS.value],
        ladders=ladders,
        class_names=run.dataset.class_names,
        notes={
            "checkpoint_step": run.step,
            "data": run.dataset.name,
            "dtype": run.backbone.dtype,
            **notes,
        },
    )
    for name, facts in manifest["files"].items():
        print(f"{facts['bytes'] / 1e6:10.3f} MB  {name}")
    for piece in manifest["stages"]:
        if piece["reason"] is not None:
            print(f"no piece of stage {piece['stage']}: {piece['reason']}")
    print(f"written for {', '.join(manifest['platforms'])}: {out}")


if __name__ == "__main__":
    errors.run(main)
