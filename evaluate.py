"""Fits schedulers for a trained network, or for saved predictions, and reports them.

python evaluate.py --workdir=runs/digits
python evaluate.py --predictions=FILE.npz --scheduler=eenet,maxprob_opt --budgets=1:3:9
"""

import functools
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
    "(README), too.",
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
    if (_WORKDIR.value is None) == (_PREDICTIONS.value is None):
        raise errors.UserError("give either --workdir=DIR or --predictions=FILE.npz")
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
        _refuse([_INT8], "--predictions, which needs no network")
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

    import jax  # JAX starts only once the flags are read

    from eenet_jax import adaptive, evaluation, imported, options, quantised, trained
    from eenet_jax.costs.files import load_costs
    from eenet_jax.predictions import load_predictions
    from eenet_jax.report.files import make_output, write_report

    details, load_images = {}, None
    if _PREDICTIONS.value is not None:
        path = pathlib.Path(_PREDICTIONS.value)
        predictions = load_predictions(path)
        output = path.with_name(path.name.removesuffix(".npz") + "_eval")
    else:
        workdir = pathlib.Path(_WORKDIR.value)
        if _CONFIG.value is not None:
            imported.import_run(_CONFIG.value, workdir)
        predictions, details = trained.predictions_with_cost(
            workdir,
            _CHECKPOINT.value,
            _COST.value or COSTS[0],
            latency_batch_size=_BATCH.value,
            profile=_PROFILE.value,
            int8=_INT8.value,
        )
        reports = trained.reports_dir(workdir, _INT8.value)
        output = reports / "eval"
        load_images = functools.partial(trained.images_of, workdir, predictions)
    if _OUTPUT.value is not None:
        output = pathlib.Path(_OUTPUT.value)
    if _COSTS.value is not None:
        costs = load_costs(_COSTS.value, predictions.num_exits)
        predictions = predictions.with_costs(costs.costs, costs.unit)
        details = costs.details
    run = None
    if _MODE.value == "adaptive":
        run = adaptive.runner(
            workdir,
            _CHECKPOINT.value,
            predictions,
            _PROFILE.value,
            int8=_INT8.value,
        )
    if _INT8.value:
        details = {**details, "int8": quantised.describe()}
    policies = (output if _WORKDIR.value is None else reports) / "policies"

    if _SPEEDUP.value is not None:
        budgets = options.parse_speedups(_SPEEDUP.value, predictions)
    else:
        budgets = options.parse_budgets(_BUDGETS.value, predictions.costs)
    if _POLICY.value is not None:
        path = pathlib.Path(_POLICY.value)
        make_output(output)
        results = evaluation.apply_saved(
            path,
            budgets,
            predictions,
            confidence=_CONFIDENCE.value,
            max_drop=_MAX_DROP.value,
            min_accuracy=_MIN_ACCURACY.value,
            run=run,
        )
        results["cost_details"] = details
        print(write_report(results, output, load_images))
        return
    names, left_out = options.parse_schedulers(
        _SCHEDULER.value, predictions, _ENSEMBLE.value
    )
    make_output(output)
    results = evaluation.evaluate(
        predictions,
        schedulers=[] if _MODE.value == "anytime" else names,
        budgets=budgets,
        key=jax.random.key(_SEED.value),
        confidence=_CONFIDENCE.value,
        max_drop=_MAX_DROP.value,
        min_accuracy=_MIN_ACCURACY.value,
        seeds=_SEEDS.value,
        policies_dir=policies,
        temperature=_TEMPERATURE.value,
        ensemble=_ENSEMBLE.value,
        run=run,
        energy_model=details.get("model"),
    )
    results["cost_details"] = details
    for name, lack in left_out.items():
        print(f"left out: {name}, which needs {lack}")
    for name in ("int8", "energy"):
        if name in details:
            print(f"{name}: {details[name]}")
    print(write_report(results, output, load_images))


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
