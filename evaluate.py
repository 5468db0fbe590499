"""Fits schedulers for a trained network, or for saved predictions, and reports them.

python evaluate.py --workdir=runs/digits
python evaluate.py --predictions=FILE.npz --scheduler=eenet,maxprob_opt --budgets=1:3:9
"""

import dataclasses
import glob
import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from eenet_jax import errors

MODES = ("anytime", "budgeted", "adaptive")
COSTS = ("mflops", "mparams", "latency_ms", "energy_mj")

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Evaluates imported weights without training: a file of configs/, with "
    "--config.init_from=PATH of a checkpoint that has all exits. --workdir is made.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run of train.py.")
_WORKDIRS = flags.DEFINE_string(
    "workdirs",
    None,
    "Instead of one run: a pattern of many, as in 'runs/*'. Each is reported in its "
    "own directory, means and deviations over them in --output (runs_eval).",
)
_PREDICTIONS = flags.DEFINE_string(
    "predictions",
    None,
    "Instead of a run: an .npz file of predictions, of any framework (README).",
)
_MODE = flags.DEFINE_string(
    "mode",
    "budgeted",
    "anytime: accuracy and cost of every exit. budgeted: also the schedulers, for "
    "every budget. adaptive: also runs every policy over the test part and times it; "
    "choose few with --scheduler and --budgets.",
)
_SCHEDULER = flags.DEFINE_string(
    "scheduler",
    "all",
    "Schedulers to fit, with commas between; all, or NAME:VARIANT as eenet:published "
    "(README), too. Hyper-parameters follow with + between, alternatives with /, as in "
    "lagrangian:units=32/128 or lagrangian:stopping+units=32+folds=3/5.",
)
_BUDGETS = flags.DEFINE_string(
    "budgets",
    "auto",
    "Mean costs per sample to keep: x,y,... or lo:hi:n, or auto for 20 values from the "
    "cheapest exit's cost to the full network's.",
)
_COST = flags.DEFINE_string(
    "cost",
    None,
    "Unit of costs and budgets: mflops (the default), mparams, latency_ms, which is "
    "measured here, or energy_mj, measured where the device has a counter that can be "
    "read, else modelled from times. With --predictions the file has the costs.",
)
_INT8 = flags.DEFINE_boolean(
    "int8",
    False,
    "Evaluate the network with its convolutions in int8, quantised after training; "
    "predictions, policies and report go to WORKDIR/int8.",
)
_BLOCKS = flags.DEFINE_string(
    "blocks",
    "",
    "Of a network of maps: decide for each of so many blocks of an image, as 3x4, or "
    "3x4+2 with a halo of 2 places; they go to WORKDIR/blocks_3x4.",
)
_COSTS = flags.DEFINE_string(
    "costs",
    None,
    "File with the cumulative cost of each exit, to use instead: JSON or CSV.",
)
_PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "Latency profile of this device, of python -m eenet_jax.runtime.profile: for "
    "--cost=latency_ms or energy_mj and --mode=adaptive, which otherwise measure anew.",
)
_CONFIDENCE = flags.DEFINE_float(
    "confidence",
    None,
    "Keep the mean cost on new data with this probability, e.g. 0.95; half of the "
    "validation part is held out of the fits for it.",
)
_MAX_DROP = flags.DEFINE_float(
    "max_drop",
    None,
    "Instead of budgets: the cheapest policy whose accuracy on new data is at most "
    "this far below the last exit's, e.g. 0.005, with --confidence (0.95 by default).",
)
_SPEEDUP = flags.DEFINE_string(
    "speedup",
    None,
    "Instead of budgets: how many times as fast as the full network alone, in the unit "
    "of the costs; 2 or 1.5,2,3.",
)
_MIN_ACCURACY = flags.DEFINE_float(
    "min_accuracy",
    None,
    "Instead of budgets: the cheapest policy that is this accurate on the validation "
    "part, e.g. 0.9.",
)
_TEMPERATURE = flags.DEFINE_boolean(
    "temperature",
    False,
    "Divide each exit's logits by a temperature fitted to the validation part before "
    "a scheduler sees them.",
)
_ENSEMBLE = flags.DEFINE_boolean(
    "ensemble",
    False,
    "Let every exit answer with the mean of its probabilities and those of all exits "
    "before it; with --temperature, of the tempered ones.",
)
_POLICY = flags.DEFINE_string(
    "policy", None, "Apply this saved policy or fit (a file of policies/); fit nothing."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Which of the run's checkpoints: best, latest, or a step."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Directory of the report; by default WORKDIR/eval, or FILE_eval beside FILE.npz.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the schedulers' fits.", lower_bound=0)
_SEEDS = flags.DEFINE_integer(
    "seeds",
    1,
    "Fits of each scheduler from different seeds; the comparison shows their mean and "
    "spread.",
    lower_bound=1,
)
_BATCH = flags.DEFINE_integer(
    "latency_batch_size", 32, "Samples a batch for --cost=latency_ms.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Evaluates, writes the report and prints its table."""
    del argv
    sources = (_WORKDIR, _WORKDIRS, _PREDICTIONS)
    if sum(source.value is not None for source in sources) != 1:
        raise errors.UserError(
            "give one of --workdir=DIR, --predictions=FILE.npz and --workdirs='DIR/*'"
        )
    if _WORKDIRS.value is not None:
        _refuse([_CONFIG], "--workdirs, whose runs are there")
    if _PREDICTIONS.value is not None:
        _refuse([_CONFIG], "--predictions, which needs no network")
    _check_choice("mode", _MODE.value, MODES)
    if _COST.value is not None:
        _check_choice("cost", _COST.value, COSTS)

    for flag in (_MAX_DROP, _MIN_ACCURACY, _POLICY):
        if _SEEDS.value > 1 and flag.value is not None:
            raise errors.UserError(
                f"--seeds={_SEEDS.value} cannot be given with --{flag.name}, which "
                "compares nothing; leave it out"
            )

    fit_flags = (_SCHEDULER, _TEMPERATURE, _ENSEMBLE)
    targets = (_BUDGETS, _SPEEDUP, _MAX_DROP, _MIN_ACCURACY)
    for flag in targets:
        if flags.FLAGS[flag.name].present:
            _refuse([t for t in targets if t is not flag], f"--{flag.name}")
    if _MIN_ACCURACY.value is not None:
        _refuse([_CONFIDENCE], "--min_accuracy, which is for the validation part")
    if _POLICY.value is not None:
        _refuse(fit_flags, "--policy, which fits nothing")
    if _MODE.value == "anytime":
        others = (*fit_flags, _CONFIDENCE, *targets, _POLICY)
        _refuse(others, "--mode=anytime, which has no schedulers")
    if _PREDICTIONS.value is not None:
        _refuse([_CHECKPOINT], "--predictions, which has no checkpoints")
        _refuse([_COST, _PROFILE], "--predictions, whose file has the costs")
        _refuse([_INT8, _BLOCKS], "--predictions, which needs no network")
        if _MODE.value == "adaptive":
            raise errors.UserError(
                "--mode=adaptive runs the network, which --predictions does not have; "
                "give --workdir"
            )
    if _COSTS.value is not None:
        _refuse([_COST], "--costs")
    if _CONFIDENCE.value is not None and not 0 < _CONFIDENCE.value < 1:
        raise errors.UserError(
            f"--confidence={_CONFIDENCE.value} must be in (0, 1), e.g. 0.95"
        )
    if _MAX_DROP.value is not None and not 0 <= _MAX_DROP.value < 1:
        raise errors.UserError(
            f"--max_drop={_MAX_DROP.value} must be in [0, 1), e.g. 0.005"
        )

    # JAX starts only once the flags are read.
    from eenet_jax import imported, memory, reports

    memory.keep_freed()
    names = [field.name for field in dataclasses.fields(reports.Options)]
    given = {name: flags.FLAGS[name].value for name in names}
    asked = reports.Options(**{**given, "cost": _COST.value or COSTS[0]})
    if _PREDICTIONS.value is not None:
        reports.report_file(pathlib.Path(_PREDICTIONS.value), asked)
    elif _WORKDIRS.value is not None:
        reports.report_runs(_runs(_WORKDIRS.value), asked)
    else:
        workdir = pathlib.Path(_WORKDIR.value)
        if _CONFIG.value is not None:
            imported.import_run(_CONFIG.value, workdir)
        reports.report_run(workdir, asked)


def _runs(pattern: str) -> list[pathlib.Path]:
    """Returns the runs that a pattern matches, in the order of their names."""
    found = sorted(map(pathlib.Path, glob.glob(pattern)))
    found = [path for path in found if (path / "config.json").exists()]
    if not found:
        raise errors.UserError(
            f"--workdirs={pattern} matches no run; quote it, as in --workdirs='runs/*'"
        )
    return found


def _refuse(given: Sequence[flags.FlagHolder], beside: str) -> None:
    for holder in given:
        if flags.FLAGS[holder.name].present:
            raise errors.UserError(
                f"{flags.FLAGS[holder.name].serialize()} cannot be given with "
                f"{beside}; leave it out"
            )


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise errors.UserError(
            f"--{flag}={value} is unknown; choose from {', '.join(choices)}"
        )


if __name__ == "__main__":
    errors.run(main)
