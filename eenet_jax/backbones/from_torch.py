"""Weights from PyTorch: published multi-exit checkpoints and single-exit ones.

    state_dict = from_torch.load_state_dict("resnet56.npz")
    variables = from_torch.convert("resnet56", state_dict)

Multi-exit checkpoints fill the whole network. Single-exit ones (torchvision, Hugging
Face, CIFAR ResNets) fill its stages and last head; the early heads stay fresh.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from eenet_jax import backbones
from eenet_jax.backbones.staged import Backbone, Variables
from eenet_jax.backbones.torch_files import load_state_dict
from eenet_jax.backbones.torch_names import (
    Format,
    Path,
    bert,
    densenet,
    hrnet,
    laid_out,
    leenet,
    msdnet,
    predictive,
    resnet,
    torch_shape,
    vgg,
)
from eenet_jax.errors import UserError

__all__ = ["Imported", "convert", "gates", "load_state_dict", "some", "take"]

_CIFAR = ("cifar_resnet", *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110)))
# The checkpoint formats that each network is read from.
FORMATS: Mapping[str, tuple[Format, ...]] = {
    "resnet56_3": (resnet.EENET,),
    **dict.fromkeys(_CIFAR, (resnet.AKAMASTER,)),
    "resnet8_2ee": (resnet.RESNET8,),
    **dict.fromkeys(("resnet18", "resnet34", "resnet50"), (resnet.TORCHVISION,)),
    **dict.fromkeys(("vgg11_bn", "vgg19_bn"), (vgg.TORCHVISION,)),
    **predictive.FORMATS,
    "densenet121_4": (densenet.EENET, densenet.SINGLE_EXIT),
    "densenet121": (densenet.TORCHVISION, densenet.OLD_TORCHVISION),
    "densenet_bc_40_12": (densenet.DENSENET_BC,),
    **{
        name: (*(spelling.format() for spelling in spellings), spellings[0].base)
        for name, spellings in leenet.SPELLINGS.items()
    },
    **dict.fromkeys(("msdnet35_5", "msdnet", "cifar_msdnet"), (msdnet.MSDNET,)),
    **dict.fromkeys(("hrnet_w18s", "hrnet_w18", "hrnet_w48"), hrnet.FORMATS),
    **dict.fromkeys(("bert_4", "bert", "minilm"), bert.FORMATS),
}
COUNTERS = r"(.*\.)?num_batches_tracked"
SHOWN = 8  # keys of each kind in a message


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a state dict gave a network.

    Attributes:
      variables: The network's variables, NumPy where they were imported.
      fresh: Parts of the network that the checkpoint does not fill, as "heads_0"; what
        it lacks keeps the values it had.
      skipped: What ``partial`` let pass, one line each.
    """

    variables: Variables
    fresh: tuple[str, ...]
    skipped: tuple[str, ...]


def convert(
    name: str, state_dict: Mapping[str, np.ndarray], **options: Any
) -> Variables:
    """Converts a PyTorch state dict to the variables of a backbone.

    Args:
      name: As for ``backbones.build``.
      state_dict: NumPy arrays by PyTorch's keys.
      **options: As for ``backbones.build``: ``exits`` and the backbone's own.
        ``num_classes`` is read off the tensors.

    Returns:
      The variables of ``backbones.build(name, num_classes=C, **options)``. Heads that
      the checkpoint has nothing for are initialised with key 0.

    Raises:
      UserError: If the tensors are not those of this network.
    """
    options = {**leenet.sizes_of(name, state_dict), **options}
    classes = options.pop("num_classes", None) or _num_classes(name, state_dict)
    backbone = backbones.build(name, num_classes=classes, **options)
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())
    imported = take(backbone, shapes, state_dict)
    if imported.fresh:
        init = jax.jit(
            backbone.init, compiler_options={"xla_backend_optimization_level": 0}
        )
        fresh = init(jax.random.key(0), backbone.example())
        imported = take(backbone, fresh, state_dict)
    return imported.variables


def gates(
    name: str, state_dict: Mapping[str, np.ndarray], costs: Sequence[float]
) -> Any:
    """Reads the gates of a LEENet checkpoint, as the policy that they make.

    A sample leaves where sigmoid(w . x + b) is above 0.5, x being the map that the exit
    reads, flattened.

    Args:
      name: One of the "leenet_" networks.
      state_dict: NumPy arrays by PyTorch's keys.
      costs: Of the exits, one each; only that they are as many is looked at.

    Returns:
      The ``schedulers.Policy``.

    Raises:
      UserError: If a gate is missing, or ``costs`` are not one for each exit.
    """
    from eenet_jax.schedulers import gate_policy  # the layers meet here alone

    if name not in leenet.SPELLINGS:
        raise UserError(
            f"model.name={name!r} has no gates; choose from {sorted(leenet.SPELLINGS)}"
        )
    backbone = backbones.build(name, num_classes=_num_classes(name, state_dict))
    if len(costs) != backbone.num_exits:
        raise UserError(
            f"costs has {len(costs)} numbers, {name!r} {backbone.num_exits} exits"
        )
    spellings = [spelling.gates(backbone.module) for spelling in leenet.SPELLINGS[name]]
    found = [[f"{key}.weight" in state_dict for key in keys] for keys in spellings]
    keys = spellings[int(np.argmax([sum(there) for there in found]))]
    parts = [f"{key}.{part}" for key in keys for part in ("weight", "bias")]
    missing = [part for part in parts if part not in state_dict]
    if missing:
        raise UserError(f"the tensors lack gates: {some(missing)}")
    weights = [np.asarray(state_dict[f"{key}.weight"], np.float32)[0] for key in keys]
    biases = [np.asarray(state_dict[f"{key}.bias"], np.float32)[0] for key in keys]
    return gate_policy("flat", weights, np.array(biases))


def take(
    backbone: Backbone,
    variables: Variables,
    state_dict: Mapping[str, np.ndarray],
    *,
    partial: bool = False,
) -> Imported:
    """Puts a state dict's tensors in the place of a network's variables.

    Args:
      backbone: The network.
      variables: Its variables, or their shapes.
      state_dict: NumPy arrays by PyTorch's keys.
      partial: Leaves what is missing or of another shape as it is in ``variables``, and
        what is unexpected aside, instead of refusing it.

    Returns:
      The variables, with what was not taken.

    Raises:
      UserError: If ``partial`` is not set and tensors are missing, unexpected or of
        another shape; they are listed. Or if nothing fits at all.
    """
    matches = [
        _match(form, backbone, variables, state_dict)
        for form in _formats(backbone.name)
    ]
    best = min(matches, key=lambda match: len(match.problems))
    if not best.taken:
        raise UserError(
            f"none of the {len(state_dict)} tensors ({some(state_dict)}) is one of "
            f"model.name={backbone.name!r}; it would have {some(best.expected)}"
        )
    if best.problems and not partial:
        raise UserError(
            f"the tensors are not those of model.name={backbone.name!r} with "
            f"{backbone.num_classes} classes:\n  " + "\n  ".join(best.summary())
        )
    return Imported(best.variables, best.fresh, best.problems)


@dataclasses.dataclass(frozen=True)
class _Match:
    """How one format's names fit a state dict."""

    variables: Variables
    expected: tuple[str, ...]
    taken: int
    fresh: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self.missing, *self.unexpected, *self.misshaped)

    def summary(self) -> list[str]:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.misshaped,
        }
        return [
            f"{len(keys)} {kind}: {some(keys)}" for kind, keys in kinds.items() if keys
        ]


def _match(
    form: Format,
    backbone: Backbone,
    variables: Variables,
    state_dict: Mapping[str, np.ndarray],
) -> _Match:
    naming = form.naming(backbone.module)
    expected, missing, misshaped, fresh = [], [], [], []

    def replace(path: tuple[Any, ...], leaf: Any) -> Any:
        names: Path = tuple(entry.key for entry in path[1:])
        key = naming(names)
        if key is None:
            fresh.append(names[0])
            return leaf
        expected.append(key)
        if key not in state_dict:
            missing.append(key)
            fresh.append(names[0])
            return leaf
        value = laid_out(state_dict[key], names[-1])
        if value.shape != leaf.shape:
            theirs = np.shape(state_dict[key])
            ours = torch_shape(leaf.shape, names[-1])
            misshaped.append(f"{key} {theirs}, here {ours}")
            fresh.append(names[0])
            return leaf
        return value

    filled = jax.tree_util.tree_map_with_path(replace, variables)
    ignored = re.compile("|".join(f"(?:{p})" for p in (COUNTERS, *form.ignored)))
    known = set(expected)
    unexpected = [
        key for key in state_dict if key not in known and not ignored.fullmatch(key)
    ]
    return _Match(
        filled,
        tuple(expected),
        len(expected) - len(missing) - len(misshaped),
        tuple(dict.fromkeys(fresh)),
        tuple(missing),
        tuple(unexpected),
        tuple(misshaped),
    )


def _num_classes(name: str, state_dict: Mapping[str, np.ndarray]) -> int:
    for form in _formats(name):
        for key, value in state_dict.items():
            if re.fullmatch(form.classes_key, key) and np.ndim(value):
                return int(np.shape(value)[0])
    raise UserError(
        f"no tensor ({some(state_dict)}) tells the number of classes of "
        f"model.name={name!r}; give num_classes, or the checkpoint of this network"
    )


def _formats(name: str) -> tuple[Format, ...]:
    if name not in FORMATS:
        raise UserError(
            f"there is no import from PyTorch for model.name={name!r}; there is for "
            f"{', '.join(sorted(FORMATS))}"
        )
    return FORMATS[name]


def some(keys: Collection[str]) -> str:
    """Returns the first keys of many, and how many more there are."""
    keys = list(keys)
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
