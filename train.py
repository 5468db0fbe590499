"""Trains a multi-exit network and saves its predictions.

python train.py --config=configs/digits.py --workdir=runs/digits

On many hosts the same command is started on each, with --distributed.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from eenet_jax import errors, sweep

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The experiment: a file of configs/. Its fields are changed with "
    "--config.FIELD=VALUE; configs/default.py explains them all.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, for its config, checkpoints, metrics and predictions. A run "
    "that was stopped goes on from there. Of a sweep, the directory of its runs.",
)
_SWEEP = flags.DEFINE_string(
    "sweep",
    None,
    "Axes of the config file's sweep(), with commas between: a run for every "
    "combination of their values, in turn. seed is always there.",
)
_SWEEP_INDEX = flags.DEFINE_integer(
    "sweep_index", None, "The one run of the sweep to do, from 0: for job arrays."
)
_SWEEP_LIST = flags.DEFINE_boolean(
    "sweep_list", False, "Print the runs of the sweep, and do none."
)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "Steps to write a profiler's trace of to WORKDIR/trace, as in 10:15; read it with "
    "TensorBoard's profile plugin, XProf or Perfetto.",
)
_ALPHA = flags.DEFINE_float(
    "alpha",
    None,
    "Short for --config.gates.alpha: the weight of cost, from 0 to 1, of LEENet's "
    "gates. A finished run trains its gates anew for another.",
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed",
    False,
    "This is one of several processes that train together, in one workdir that all can "
    "reach. On TPU pods, Slurm, Kubernetes and MPI they find each other; elsewhere "
    "give the three flags below.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first process."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
    """Trains a run or a sweep; each writes its ``predictions.npz``."""
    del argv
    if not _WORKDIR.value and not _SWEEP_LIST.value:
        raise errors.UserError("--workdir is missing; give the run a directory")
    config = _CONFIG.value
    if config is None:
        raise errors.UserError("--config is missing; choose a file of configs/")
    try:
        config.lock()
    except OSError as error:  # the file could not be loaded
        raise errors.UserError(
            f"--config: {error}; choose a file of configs/"
        ) from None
    if _ALPHA.value is not None:
        if not config.gates.inputs:
            raise errors.UserError(
                f"--alpha={_ALPHA.value:g} is for gates; give --config.gates.inputs, "
                "say average"
            )
        config.gates.alpha = _ALPHA.value
    for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID):
        if flag.value is not None and not _DISTRIBUTED.value:
            raise errors.UserError(
                f"--{flag.name}={flag.value} is for --distributed; give it too"
            )
    if _PROFILE_STEPS.value is not None and (_SWEEP.value or config.vmap_seeds):
        raise errors.UserError(
            f"--profile_steps={_PROFILE_STEPS.value} is for one run; leave out --sweep "
            "and --config.vmap_seeds"
        )
    if _SWEEP.value is not None:
        if config.vmap_seeds:
            raise errors.UserError(
                f"--config.vmap_seeds={config.vmap_seeds} cannot be given with "
                "--sweep; take the axis seed instead"
            )
        run_sweep(config)
        return
    if _SWEEP_INDEX.value is not None or _SWEEP_LIST.value:
        raise errors.UserError("--sweep is missing; name axes, as in --sweep=seed")
    if config.vmap_seeds:
        run_seeds(config)
        return
    prepare()
    from eenet_jax import processes, runs
    from eenet_jax.training import trace

    steps = _PROFILE_STEPS.value
    profiled = None if steps is None else trace.parse_steps(steps)
    workdir = pathlib.Path(_WORKDIR.value)
    with processes.ending_together():
        runs.run(config, workdir, profiled)
        if processes.is_first():
            print(f"next: python evaluate.py --workdir={workdir}")


def run_sweep(config: ml_collections.ConfigDict) -> None:
    """Lists a sweep, or does its runs and prints what became of them."""
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    points = sweep.points(sweep.read_axes(path), _SWEEP.value)
    if _SWEEP_LIST.value:
        print(sweep.listing(points))
        return
    if _DISTRIBUTED.value and _SWEEP_INDEX.value is None:
        raise errors.UserError(
            "--sweep with --distributed takes one run at a time; give --sweep_index"
        )
    workdir = pathlib.Path(_WORKDIR.value)
    prepare(compiled=workdir / "compiled")
    from eenet_jax import processes, runs, sweep_runs

    with processes.ending_together():
        rows = sweep_runs.run_points(
            points, config, workdir, runs.run, _SWEEP_INDEX.value
        )
    if processes.is_first():
        _say_states(rows, workdir)


def run_seeds(config: ml_collections.ConfigDict) -> None:
    """Trains ``vmap_seeds`` seeds together, and prints what became of them."""
    seeds_of = tuple(range(config.seed, config.seed + config.vmap_seeds))
    points = sweep.points({"seed": {"seed": seeds_of}}, "seed")
    config = config.copy_and_resolve_references()
    config.vmap_seeds = 0  # each is then a run like any other
    workdir = pathlib.Path(_WORKDIR.value)
    prepare(compiled=workdir / "compiled")
    from eenet_jax import runs, sweep_runs
    from eenet_jax.training import seeds

    configs = [sweep.change(config, point) for point in points]
    seeds.train_seeds(configs, [workdir / point.name for point in points])
    _say_states(sweep_runs.run_points(points, config, workdir, runs.run), workdir)


def _say_states(rows: Sequence[Mapping[str, Any]], workdir: pathlib.Path) -> None:
    from eenet_jax import sweep_runs

    print(sweep_runs.table(rows))
    print(f"written: {workdir / 'sweep.csv'}, {workdir / 'summary.csv'}")
    tried = rows if _SWEEP_INDEX.value is None else [rows[_SWEEP_INDEX.value]]
    failed = [row["name"] for row in tried if row["state"] == "failed"]
    if failed:
        raise errors.UserError(
            f"{len(failed)} of {len(tried)} runs failed: {'; '.join(failed)}. The "
            "reasons are in the table; the same command tries these again"
        )


def prepare(compiled: pathlib.Path | None = None) -> None:
    """Starts JAX; ``compiled`` is where runs find what others have compiled."""
    import jax  # only once the flags are read

    from eenet_jax import memory, processes

    memory.keep_freed()
    if _DISTRIBUTED.value:
        processes.start(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    if compiled is not None and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(compiled.absolute()))


if __name__ == "__main__":
    errors.run(main)
