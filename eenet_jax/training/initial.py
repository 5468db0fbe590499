"""The state that a run starts from: fresh, or with imported weights."""

import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from eenet_jax import checkpoint, distributed, processes
from eenet_jax import config as config_lib
from eenet_jax.backbones import from_torch, to_torch
from eenet_jax.backbones.torch_names.bert import check_sizes
from eenet_jax.errors import UserError
from eenet_jax.training.best_heads import BestHeads
from eenet_jax.training.plan import Plan
from eenet_jax.training.step import TrainState


def initial_state(
    config: ml_collections.ConfigDict,
    plan: Plan,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Returns a fresh state, with the weights of ``config.init_from`` where given.

    Raises:
      UserError: If that file cannot be read, its tensors do not fit, or it has no last
        head of these classes where that is not trained.
    """
    if not config.init_from:
        return plan.init(key)
    if config.train.keep_last_head:
        _check_data(config)
    state, fresh = imported_state(config, plan, key, mesh)
    if config.train.keep_last_head and f"heads_{plan.backbone.num_exits - 1}" in fresh:
        raise UserError(
            f"train.keep_last_head=True, but init_from={config.init_from} has no last "
            f"head of {plan.backbone.num_classes} classes to keep: give weights that "
            f"know {config.data.name}, or --config.train.keep_last_head=False"
        )
    if fresh:
        processes.say(f"init_from: starting fresh: {', '.join(fresh)}")
    return state


def imported_state(
    config: ml_collections.ConfigDict,
    plan: Plan,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, tuple[str, ...]]:
    """Returns a state with the weights of ``config.init_from``.

    Args:
      config: ``init_from`` is a PyTorch checkpoint, or the workdir of another run,
        whose best checkpoint is taken; ``init_partial``: whether some may not fit, and
        of a run takes the stages and the last exit alone.
      plan: The run's plan.
      key: For what is not imported.
      mesh: The devices.

    Returns:
      The state, and the parts of the network that nothing was imported for.

    Raises:
      UserError: If the file cannot be read or its tensors do not fit.
    """
    path = pathlib.Path(config.init_from).expanduser()
    run = (path / "config.json").is_file() and (path / checkpoint.FOLDER).is_dir()
    whole = run and not config.init_partial
    if not whole:  # read first: a file that is not there takes no time
        read = _stages_of_run if run else from_torch.load_state_dict
        state_dict = read(path)
    state = plan.init(key)
    if whole:
        variables, fresh = _of_run(path, state), ()
    else:
        try:
            encoder = plan.backbone.input_kind == "text" and path.is_dir()
            if encoder and not config.init_partial:
                check_sizes(plan.backbone.module, path)
            imported = from_torch.take(
                plan.backbone, state.variables, state_dict, partial=config.init_partial
            )
        except UserError as error:
            raise UserError(
                f"init_from={config.init_from}: {error}\n"
                "(--config.init_partial=True takes what fits, and the rest stays fresh)"
            ) from None
        if imported.skipped:
            listed = from_torch.some(imported.skipped)
            processes.say(f"init_from: not taken: {listed}")
        variables, fresh = imported.variables, imported.fresh
    variables = distributed.replicate(variables, mesh)
    average = None if state.average is None else jax.tree.map(jnp.copy, variables)
    best = state.best and BestHeads.start(variables, state.best.variables["params"])
    state = state.replace(variables=variables, average=average, best=best)
    return plan.place(state), fresh


def _check_data(config: ml_collections.ConfigDict) -> None:
    """Refuses to keep the last head of a run on other data, whose classes it tells."""
    path = pathlib.Path(config.init_from).expanduser()
    if not (path / "config.json").is_file():
        return
    theirs = config_lib.read(path).data.name
    if theirs != config.data.name:
        raise UserError(
            f"train.keep_last_head=True keeps the last head of init_from={path}, which "
            f"tells the classes of data.name={theirs!r}: give a run on "
            f"{config.data.name!r}, or --config.train.keep_last_head=False"
        )


def _stages_of_run(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads another run's stages and last head, wherever its early exits are."""
    backbone = config_lib.build_backbone(config_lib.read(workdir), num_classes=2)
    return to_torch.single_exit(backbone, _stored(workdir))  # names alone are taken


def _stored(workdir: pathlib.Path):
    """Reads the variables that another run of ours would be evaluated with."""
    step = checkpoint.choose_step(workdir, "best")
    stored = checkpoint.restore_as_saved(workdir, step)
    variables = stored.get("average") or stored["variables"]
    if stored.get("best"):
        variables = BestHeads(**stored["best"]).put(variables)
    return variables


def _of_run(workdir: pathlib.Path, state: TrainState):
    """Reads all variables of a run of the same network."""
    variables = _stored(workdir)
    ours, theirs = (
        {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
        for leaves in map(
            jax.tree_util.tree_leaves_with_path, (state.variables, variables)
        )
    )
    differing = [key for key in ours | theirs if ours.get(key) != theirs.get(key)]
    if differing:
        raise UserError(
            f"init_from={workdir} is a run of another network: they differ in "
            f"{from_torch.some(differing)}; give model the values in its config.json, "
            "or take its stages and last exit alone: --config.init_partial=True"
        )
    return variables
