"""A trained run, read back from its workdir."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from eenet_jax import checkpoint, distributed, processes, quantised
from eenet_jax import config as config_lib
from eenet_jax.backbones.blocks import in_blocks, read_blocks
from eenet_jax.backbones.staged import Backbone
from eenet_jax.costs import (
    ExitCosts,
    energy,
    exit_latency_ms,
    exit_mflops,
    exit_mparams,
)
from eenet_jax.costs.latency import exit_runs, head_runs
from eenet_jax.costs.profile import load_profile
from eenet_jax.data import datasets, inputs
from eenet_jax.data.datasets import Dataset
from eenet_jax.inference import Predictor
from eenet_jax.predictions import (
    Predictions,
    Split,
    load_predictions,
    save_predictions,
)
from eenet_jax.schedulers.predictive import activation_means
from eenet_jax.training.loop import abstract_state
from eenet_jax.training.plan import build_plan


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and where it came from.

    Attributes:
      config: The run's config.
      backbone: The network.
      variables: What evaluation uses (averaged where the run averaged).
      dataset: The run's data.
      step: Of the checkpoint.
      workdir: The run's directory.
    """

    config: ml_collections.ConfigDict
    backbone: Backbone
    variables: Any
    dataset: Dataset
    step: int
    workdir: pathlib.Path

    def example(self, batch_size: int = 1) -> jax.ShapeDtypeStruct:
        """Returns shapes and types of a batch of inputs."""
        return inputs.example(self.dataset, batch_size)


def load_trained(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    int8: bool = False,
    blocks: str = "",
) -> Trained:
    """Reads a run's network.

    Args:
      workdir: The run's directory.
      which: "best", "latest" or a step.
      int8: Whether to quantise its convolutions.
      blocks: Of a network of maps: the blocks that are samples (``read_blocks``); ""
        for whole images.

    Raises:
      UserError: If there is no such run or checkpoint, or it is damaged.
    """
    workdir = pathlib.Path(workdir)
    config = config_lib.read(workdir)
    config_lib.validate(config, num_devices=jax.device_count())
    step = checkpoint.choose_step(workdir, which)
    mesh = distributed.data_mesh()
    dataset = config_lib.load_data(config)
    plan = build_plan(config, dataset, mesh)
    state = checkpoint.restore(workdir, step, abstract_state(plan))
    backbone = plan.backbone
    variables = distributed.replicate(state.eval_variables, mesh)
    if int8:
        workers = config.data.num_workers
        backbone, variables = quantised.in_int8(backbone, variables, dataset, workers)
    if blocks:
        backbone = in_blocks(backbone, *read_blocks(blocks))
    return Trained(config, backbone, variables, dataset, step, workdir)


def predict(trained: Trained) -> Predictions:
    """Computes all exits over the validation and test parts, with costs in MFLOPs.

    Where the config says what gates read, it is kept as features; not of maps.
    """
    predictor = Predictor(
        trained.backbone,
        trained.dataset,
        batch_size=trained.config.eval.batch_size,
        mesh=distributed.data_mesh(),
        num_workers=trained.config.data.num_workers,
    )
    kind, splits = trained.config.gates.inputs, []
    for name, part in (
        ("validation", trained.dataset.val),
        ("test", trained.dataset.test),
    ):
        if trained.dataset.target == "map":
            splits.append(predictor.map_evidence(trained.variables, part, name))
        elif kind:
            splits.append(predictor.evidence(trained.variables, part, kind, name))
        else:
            logits = predictor.logits(trained.variables, part, name)
            splits.append(Split(logits, part.labels))
    val, test = splits
    scale = None
    if trained.config.eval.train_samples:
        scale = _logit_scale(trained, predictor, trained.config.eval.train_samples)
    gates = None
    if kind:  # one multiply-add a number, and none at the last exit
        gates = 2e-6 * np.array([*(f.shape[1] for f in val.features), 0.0])
    costs = exit_mflops(trained.backbone, trained.variables, trained.example())
    return Predictions(
        val=val,
        test=test,
        costs=costs.costs,
        cost_unit=costs.unit,
        head_costs=costs.head_costs,
        gate_costs=gates,
        activation_mean=scale,
        checkpoint_step=trained.step,
        gate_inputs=kind or "flat",
        samples_per_image=trained.backbone.samples_per_input,
        class_names=trained.dataset.class_names,
    )


def _logit_scale(trained: Trained, predictor: Predictor, count: int) -> np.ndarray:
    """Returns the mean |logit| of every exit over some training samples, ``[K]``."""
    seen = datasets.spread(trained.dataset.train, count)
    return activation_means(predictor.logits(trained.variables, seen, "training"))


def reports_dir(
    workdir: str | pathlib.Path, int8: bool = False, blocks: str = ""
) -> pathlib.Path:
    """Returns where a run's predictions, policies and reports lie."""
    forms = ["int8"] * int8 + [f"blocks_{blocks}"] * bool(blocks)
    return pathlib.Path(workdir, *["_".join(forms)] * bool(forms))


def workdir_predictions(
    workdir: str | pathlib.Path,
    which: str = "best",
    *,
    int8: bool = False,
    blocks: str = "",
) -> Predictions:
    """Returns a run's predictions, computing them only where the file has others.

    Others are those of another checkpoint, or without what its gates read or the scale
    of its logits.

    Args:
      workdir: The run's directory; ``predictions.npz`` is read or written in its
        ``reports_dir``.
      which: "best", "latest" or a step.
      int8: Whether of the network in int8.
      blocks: As ``load_trained`` takes it.
    """
    path = reports_dir(workdir, int8, blocks) / "predictions.npz"
    config = config_lib.read(workdir)
    step = checkpoint.choose_step(workdir, which)
    if processes.as_first(path.exists()):
        predictions = load_predictions(path)
        if predictions.checkpoint_step == step and _suffice(config, predictions):
            return predictions
    predictions = predict(load_trained(workdir, which, int8=int8, blocks=blocks))
    if processes.is_first():
        save_predictions(path, predictions)
    return predictions


def _suffice(config: ml_collections.ConfigDict, predictions: Predictions) -> bool:
    """Says whether predictions hold what gates read and the scale of the logits."""
    kept = predictions.gate_inputs if predictions.val.features else ""
    scaled = predictions.activation_mean is not None
    return config.gates.inputs in ("", kept) and (
        scaled or not config.eval.train_samples
    )


def predictions_with_cost(
    workdir: str | pathlib.Path,
    which: str,
    cost: str,
    *,
    latency_batch_size: int,
    profile: str | None = None,
    int8: bool = False,
    blocks: str = "",
) -> tuple[Predictions, Mapping[str, Any]]:
    """Returns a run's predictions with costs in the unit asked for.

    Args:
      workdir: The run's directory.
      which: "best", "latest" or a step.
      cost: "mflops", "mparams", "latency_ms" or "energy_mj", which is measured where
        the device has a counter that can be read, and modelled from times elsewhere.
      latency_batch_size: Samples a batch where time or energy is measured.
      profile: File with times measured before, for "latency_ms" and "energy_mj".
      int8: Whether of the network in int8.
      blocks: As ``load_trained`` takes it; costs are of whole images always.

    Returns:
      The predictions, and how the costs came about.
    """
    predictions = workdir_predictions(workdir, which, int8=int8, blocks=blocks)
    if cost == "mflops":
        return predictions, {}
    trained = load_trained(workdir, which, int8=int8, blocks=blocks)
    gates = None
    if cost == "mparams":
        costs = exit_mparams(trained.backbone, trained.variables)
        if predictions.gate_costs is not None:  # a weight a number, and a bias
            sizes = [f.shape[1] + 1 for f in predictions.val.features]
            gates = 1e-6 * np.array([*sizes, 0])
    elif cost == "energy_mj" and profile is None and (counter := energy.find_counter()):
        x = jax.tree.map(_ones, trained.example(latency_batch_size))
        given = trained.backbone, trained.variables, x
        measured_at = {
            "batch_size": latency_batch_size,
            "device": str(jax.devices()[0]),
        }
        costs = energy.measured_costs(
            exit_runs(*given),
            head_runs(*given),
            latency_batch_size,
            counter,
            measured_at,
        )
    else:
        costs = _times(trained, latency_batch_size, profile)
        costs = energy.modelled_costs(costs) if cost == "energy_mj" else costs
    changed = predictions.with_costs(costs.costs, costs.unit, costs.head_costs, gates)
    return changed, costs.details


def _times(trained: Trained, batch_size: int, profile: str | None) -> ExitCosts:
    if profile is not None:
        found = load_profile(profile, trained.backbone)
        return found.exit_costs(trained.backbone.samples_per_input)
    x = jax.tree.map(_ones, trained.example(batch_size))
    return exit_latency_ms(trained.backbone, trained.variables, x)


def _ones(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.ones(leaf.shape, leaf.dtype)
