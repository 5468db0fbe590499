"""A checkpoint from elsewhere as a run that can be evaluated, without training."""

import pathlib

import jax
import ml_collections

from eenet_jax import checkpoint, distributed
from eenet_jax import config as config_lib
from eenet_jax.errors import UserError
from eenet_jax.inference import Predictor
from eenet_jax.training import initial, loop
from eenet_jax.training.plan import build_plan


def import_run(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> None:
    """Makes a workdir of a config's ``init_from``, as a run of zero steps.

    A workdir that holds a run of this config already is left as it is.

    Args:
      config: Its ``init_from`` must fill the whole network, all heads included.
      workdir: The directory to make.

    Raises:
      UserError: If config, data, weights or workdir are not usable, or a head is left
        without weights.
    """
    if not config.init_from:
        raise UserError(
            "--config evaluates imported weights: give --config.init_from=PATH too, or "
            "leave --config out for a run of train.py"
        )
    config_lib.validate(config, num_devices=jax.device_count())
    workdir = pathlib.Path(workdir)
    loop.check_workdir(config, workdir)
    if checkpoint.saved_steps(workdir):
        return
    mesh = distributed.data_mesh()
    dataset = config_lib.load_data(config)
    plan = build_plan(config, dataset, mesh)
    key = jax.random.split(jax.random.key(config.seed))[0]
    state, fresh = initial.imported_state(config, plan, key, mesh)
    if fresh:
        raise UserError(
            f"init_from={config.init_from} has no weights for {', '.join(fresh)}: "
            "train them first, with train.py --config.train.objective=exits"
        )
    predictor = Predictor(
        plan.backbone,
        dataset,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        num_workers=config.data.num_workers,
    )
    accuracy = predictor.accuracy(state.eval_variables, dataset.val)
    loop.claim_workdir(config, workdir)
    with checkpoint.open_checkpoints(workdir, clean=True) as saved:
        checkpoint.save(saved, 0, state, float(accuracy.mean()))
