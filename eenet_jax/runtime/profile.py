"""Writes the latency profile of a trained network on the device at hand.

    python -m eenet_jax.runtime.profile --workdir=runs/digits --out=profile.json

``evaluate.py`` takes it as --profile, for costs in milliseconds (--cost=latency_ms) and
to plan --mode=adaptive.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from eenet_jax import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run of train.py.")
_OUT = flags.DEFINE_string(
    "out", None, "File to write; by default WORKDIR/profile.json, or WORKDIR/int8/..."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Which of the run's checkpoints: best, latest, or a step."
)
_INT8 = flags.DEFINE_boolean("int8", False, "Of the network in int8.")
_BLOCKS = flags.DEFINE_string(
    "blocks", "", "Of blocks of images, as evaluate.py takes them; --batch_size images."
)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Samples a whole batch.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 20, "Timed runs behind each median.", 1)


def main(argv: Sequence[str]) -> None:
    """Measures, writes the file and prints what it says."""
    del argv
    if not _WORKDIR.value:
        raise errors.UserError("--workdir is missing; give the directory of a run")

    from eenet_jax import adaptive, memory, trained
    from eenet_jax.files import make_directory
    from eenet_jax.runtime.plan import plan_ladders

    memory.keep_freed()
    form = {"int8": _INT8.value, "blocks": _BLOCKS.value}
    folder = trained.reports_dir(_WORKDIR.value, **form)
    out = pathlib.Path(_OUT.value or folder / "profile.json")
    make_directory(out.parent, "out")
    run = trained.load_trained(_WORKDIR.value, _CHECKPOINT.value, **form)
    profile = adaptive.profile_run(run, batch_size=_BATCH.value, repeats=_REPEATS.value)
    try:
        profile.save(out)
    except OSError as error:
        raise errors.UserError(f"--out={out} cannot be written: {error}") from None
    print(f"{profile.network} on {profile.device}, {profile.dtype}, {profile.versions}")
    print(f"milliseconds a batch of {', '.join(map(str, profile.sizes))}:")
    for k, row in enumerate(profile.stage_ms):
        times = "  ".join(f"{ms:8.3g}" for ms in row)
        print(
            f"  stage {k + 1}: {times}   its head: {profile.head_ms[k]:.3g}   "
            f"to gather: {profile.gather_ms[k]:.3g}"
        )
    print(plan_ladders(profile).reason)
    print(f"written: {out}")


if __name__ == "__main__":
    errors.run(main)
