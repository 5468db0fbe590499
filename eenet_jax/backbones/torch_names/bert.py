"""BERT in PyTorch: EENet's keys, Hugging Face's keys and its config.json.

Hugging Face encoders have one pooler, after the last layer: it becomes the last exit's.
The other exits' poolers, and classifiers that a checkpoint does not have, are new.
"""

import dataclasses
import functools
import itertools
import json
import pathlib

from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.torch_names import LEAVES, Format, Naming, Path
from eenet_jax.errors import UserError

_STEM = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_LAYER = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
# Our options by their names in a config.json.
_SIZES = {
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "type_vocab",
}
# What that file must say, where it says anything, for the encoder to be ours.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
}


def eenet_naming(module: StagedModule) -> Naming:
    """Names the leaves of EENet's BERT-4: a pooler and a classifier at every exit."""
    encoder = _encoder(module, "bert.")

    def name(path: Path) -> str | None:
        part, layer, leaf = path[0], path[1], LEAVES[path[-1]]
        if not part.startswith("heads_"):
            return encoder(path)
        k = part.removeprefix("heads_")
        prefix = f"bert.poolers.{k}.dense" if layer == "pooler" else f"classifiers.{k}"
        return f"{prefix}.{leaf}"

    return name


def hugging_face_naming(
    module: StagedModule,
    *,
    prefix: str = "bert.",
    pooler: bool = True,
    classifier: bool = False,
    old_norms: bool = False,
) -> Naming:
    """Names the leaves of a Hugging Face BERT.

    Args:
      module: The network.
      prefix: Of the encoder's keys: "bert." or "".
      pooler: Whether there is ``pooler.dense``, for the last exit.
      classifier: Whether there is ``classifier``, for the last exit.
      old_norms: Whether LayerNorms have "gamma" and "beta" for "weight" and "bias", as
        in the checkpoints made of Google's own.
    """
    encoder = _encoder(module, prefix, old_norms)
    keys = {}
    if pooler:
        keys["pooler"] = f"{prefix}pooler.dense"
    if classifier:
        keys["classifier"] = "classifier"
    last = f"heads_{len(module.heads) - 1}"

    def name(path: Path) -> str | None:
        part, layer, leaf = path[0], path[1], LEAVES[path[-1]]
        if not part.startswith("heads_"):
            return encoder(path)
        return f"{keys[layer]}.{leaf}" if part == last and layer in keys else None

    return name


def _encoder(module: StagedModule, prefix: str, old_norms: bool = False) -> Naming:
    """Names the leaves of stem and stages."""
    counts = [len(stage.layers) for stage in module.stages]
    first_layers = [0, *itertools.accumulate(counts)]

    def name(path: Path) -> str:
        if path[0] == "stem":
            key = _STEM[path[1]]
        else:
            stage, layer = (int(part.rpartition("_")[2]) for part in path[:2])
            layer += first_layers[stage]
            key = f"encoder.layer.{layer}.{_LAYER['/'.join(path[2:-1])]}"
        leaf = LEAVES[path[-1]]
        if old_norms and key.endswith("LayerNorm"):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        return f"{prefix}{key}.{leaf}"

    return name


_NO_CLASSES = r"(?!)"  # matches no key: an encoder knows of no classes
_IGNORED = (r"(bert\.)?embeddings\.(position|token_type)_ids", r"cls\..+")


def _format(classes_key: str = _NO_CLASSES, **options: str | bool) -> Format:
    naming = functools.partial(hugging_face_naming, **options)
    return Format(naming, classes_key, _IGNORED)


EENET = Format(eenet_naming, r"classifiers\.\d+\.(weight|bias)", _IGNORED)
# BertForSequenceClassification.
HF_CLASSIFIER = _format(r"classifier\.(weight|bias)", classifier=True)
# BertForPreTraining; bert-base-uncased as it is published has the old norms.
HF = _format()
HF_OLD_NORMS = _format(old_norms=True)
# BertForMaskedLM: the last exit's pooler is new too.
HF_NO_POOLER = _format(pooler=False)
# BertModel, such as all-MiniLM-L6-v2.
HF_ENCODER = _format(prefix="")
HF_ENCODER_NO_POOLER = _format(prefix="", pooler=False)

FORMATS = (
    EENET,
    HF_CLASSIFIER,
    HF,
    HF_OLD_NORMS,
    HF_NO_POOLER,
    HF_ENCODER,
    HF_ENCODER_NO_POOLER,
)


def check_sizes(module: StagedModule, directory: pathlib.Path) -> None:
    """Refuses a network of other sizes than a Hugging Face directory's encoder.

    Not all show in the tensors: a layer of 12 heads has the shapes of one of 6.

    Raises:
      UserError: If a size differs, naming the options to set; or as ``sizes_of``.
    """
    theirs = sizes_of(directory)
    ours = dataclasses.asdict(module.stem.spec)
    ours["num_layers"] = sum(len(stage.layers) for stage in module.stages)
    wrong = {field: size for field, size in theirs.items() if ours[field] != size}
    if wrong:
        listed = ", ".join(f"{field}={ours[field]}" for field in wrong)
        raise UserError(
            f"the network has {listed}, unlike {directory / 'config.json'}; set "
            f"model.name='bert' and model.options={wrong}"
        )


def sizes_of(directory: str | pathlib.Path) -> dict[str, int]:
    """Reads an encoder's sizes from a Hugging Face directory, as options of "bert".

    Args:
      directory: Holds ``config.json``.

    Raises:
      UserError: If the file is missing, broken or of an encoder that is not ours.

    Example:
      >>> build("bert", num_classes=2, **sizes_of("all-MiniLM-L6-v2"))
    """
    path = pathlib.Path(directory) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is not there; give the directory of a Hugging Face BERT"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no JSON object; it must be that of a BERT")
    for field, needed in {"model_type": "bert", **_FIXED}.items():
        value = config.get(field, None if field == "model_type" else needed)
        if value != needed:
            raise UserError(
                f"{path}: {field}={value!r} is not supported; it must be {needed!r}"
            )
    for field in _SIZES:
        value = config.get(field)
        if type(value) is not int or value < 1:
            raise UserError(f"{path}: {field}={value!r} must be a positive integer")
    return {option: config[field] for field, option in _SIZES.items()}
