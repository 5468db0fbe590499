"""Multi-exit backbones as pure functions: ``build(name, num_classes=...)``."""

import difflib
import functools
import inspect
from collections.abc import Sequence
from typing import Any

from eenet_jax.backbones import (
    alexnet,
    bert,
    densenet,
    hrnet,
    msdnet,
    predictive,
    resnet,
    resnet8,
    resnet_imagenet,
    vgg,
)
from eenet_jax.backbones.staged import Backbone, StagedModule
from eenet_jax.errors import UserError

BACKBONES = {
    "resnet56_3": resnet.resnet56_3,
    "cifar_resnet": resnet.cifar_resnet,
    "resnet20": functools.partial(resnet.cifar_resnet, depth=20),
    "resnet32": functools.partial(resnet.cifar_resnet, depth=32),
    "resnet44": functools.partial(resnet.cifar_resnet, depth=44),
    "resnet56": functools.partial(resnet.cifar_resnet, depth=56),
    "resnet110": functools.partial(resnet.cifar_resnet, depth=110),
    "resnet8_2ee": resnet8.resnet8_2ee,
    "resnet18": resnet_imagenet.resnet18,
    "resnet34": resnet_imagenet.resnet34,
    "resnet50": resnet_imagenet.resnet50,
    "vgg11_bn": vgg.vgg11_bn,
    "vgg19_bn": vgg.vgg19_bn,
    "alexnet": alexnet.alexnet,
    "leenet_resnet50": functools.partial(
        resnet_imagenet.resnet50, exits=(0, 3, 7), head="flat"
    ),
    "leenet_vgg11_bn": vgg.leenet_vgg11_bn,
    "leenet_densenet121": functools.partial(densenet.densenet121_4, head="flat"),
    "predictive_vgg19": predictive.predictive_vgg19,
    "predictive_vgg19_stl10": predictive.predictive_vgg19_stl10,
    "predictive_resnet34": predictive.predictive_resnet34,
    "densenet121_4": densenet.densenet121_4,
    "densenet121": densenet.densenet121,
    "densenet_bc_40_12": densenet.densenet_bc_40_12,
    "msdnet35_5": msdnet.msdnet35_5,
    "msdnet": msdnet.msdnet,
    "cifar_msdnet": msdnet.cifar_msdnet,
    "hrnet_w18s": hrnet.hrnet_w18s,
    "hrnet_w18": hrnet.hrnet_w18,
    "hrnet_w48": hrnet.hrnet_w48,
    "bert_4": bert.bert_4,
    "bert": bert.bert,
    "minilm": bert.minilm,
}


def build(
    name: str,
    *,
    num_classes: int,
    exits: Sequence[int] | None = None,
    dtype: Any = "float32",
    **options: Any,
) -> Backbone:
    """Builds a backbone by name.

    Args:
      name: One of ``BACKBONES``.
      num_classes: C, at least 2.
      exits: Locations of the early exits, increasing; None for the backbone's own.
      dtype: Compute type, "float32" or "bfloat16"; parameters and logits are float32.
      **options: The backbone's own options, e.g. ``depth=26`` for "cifar_resnet".

    Returns:
      The network as pure functions.

    Raises:
      UserError: If the name, an option or an exit is not possible.

    Example:
      >>> build("resnet56_3", num_classes=10).num_exits
      3
    """
    if name not in BACKBONES:
        raise UserError(
            f"model.name={name!r} is unknown; choose from {sorted(BACKBONES)}"
            + _did_you_mean(name, BACKBONES)
        )
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes} must be at least 2")
    builder = BACKBONES[name]
    _check_options(name, builder, options)
    if exits is not None:
        options["exits"] = exits
    module: StagedModule = builder(num_classes, dtype=dtype, **options)
    return Backbone(name, len(module.stages), num_classes, str(dtype), module)


def _check_options(name: str, builder: Any, options: dict[str, Any]) -> None:
    fixed = getattr(builder, "keywords", {})
    parameters = inspect.signature(builder).parameters
    known = {
        field: p
        for field, p in parameters.items()
        if p.kind is p.KEYWORD_ONLY and field not in {"exits", "dtype", *fixed}
    }
    for field in options:
        if field not in known:
            raise UserError(
                f"model.options.{field} is no option of {name!r}; it has "
                f"{sorted(known)}" + _did_you_mean(field, known)
            )
        kind = int if known[field].default is known[field].empty else None
        kind = kind or type(known[field].default)
        given = type(options[field])
        if kind is not given and (kind, given) != (float, int):
            raise UserError(
                f"model.options.{field}={options[field]!r} must be of type "
                f"{kind.__name__}, not {type(options[field]).__name__}"
            )
    for field, parameter in known.items():
        if parameter.default is parameter.empty and field not in options:
            raise UserError(f"model.options.{field} must be given for {name!r}")


def _did_you_mean(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(word, list(choices), 1)
    return f". Did you mean {close[0]!r}?" if close else ""
