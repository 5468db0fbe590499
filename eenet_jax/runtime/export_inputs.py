"""What an exported network reads, and how data become that."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from eenet_jax.backbones.staged import Backbone
from eenet_jax.data import text_tokens
from eenet_jax.data.stream import StreamSplit
from eenet_jax.errors import UserError
from eenet_jax.runtime import bundle_files
from eenet_jax.trained import Trained

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class ImageInputs:
    """Images.

    Attributes:
      height: Of the images that are shown, in pixels.
      width: Likewise.
      mean: Of each channel in [0, 1]; one for a data set in grey.
      std: Standard deviation, likewise.
      resize: Shorter side of an image before its centre is cut out; None where images
        must come in their size.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None

    def lengths(self) -> tuple[None]:
        """Returns the length buckets: none."""
        return (None,)

    def example(self, batch_size: int, length: None) -> jax.ShapeDtypeStruct:
        """Returns shape and type of a batch."""
        del length
        return jax.ShapeDtypeStruct(
            (batch_size, self.height, self.width, 3), np.float32
        )

    def write(self, folder: pathlib.Path, backbone: Backbone) -> dict[str, Any]:
        """Returns what the manifest says."""
        del folder
        _check_kind(backbone, "image")
        return {
            "kind": "image",
            "shape": [self.height, self.width, 3],
            "dtype": "float32",
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
        }


@dataclasses.dataclass(frozen=True)
class TextInputs:
    """Texts.

    Attributes:
      boundaries: Padded length of each bucket, in tokens; longer texts are cut to the
        last.
      tokenizer: Makes token ids of texts.
    """

    boundaries: tuple[int, ...]
    tokenizer: "Tokenizer"

    def lengths(self) -> tuple[int, ...]:
        """Returns the length buckets."""
        return self.boundaries

    def example(self, batch_size: int, length: int) -> dict[str, Any]:
        """Returns shapes and types of a batch of a bucket."""
        shape = (batch_size, length)
        return {
            "ids": jax.ShapeDtypeStruct(shape, np.int32),
            "mask": jax.ShapeDtypeStruct(shape, np.bool_),
        }

    def write(self, folder: pathlib.Path, backbone: Backbone) -> dict[str, Any]:
        """Writes the tokenizer and returns what the manifest says."""
        _check_kind(backbone, "text")
        self.tokenizer.save(str(folder / bundle_files.TOKENIZER))
        return {
            "kind": "text",
            "shape": [self.boundaries[-1]],
            "dtype": "int32",
            "boundaries": list(self.boundaries),
            "max_length": self.boundaries[-1],
            "tokenizer": bundle_files.TOKENIZER,
            "vocab_size": backbone.vocab_size,
        }


Inputs = ImageInputs | TextInputs


def inputs_of(run: Trained) -> Inputs:
    """Returns what a trained run's network reads in evaluation."""
    dataset = run.dataset
    if dataset.kind == "text":
        tokenizer = text_tokens.load_tokenizer(run.config.data.tokenizer)
        return TextInputs(tuple(map(int, dataset.boundaries)), tokenizer)
    _, height, width, _ = run.example().shape
    streamed = isinstance(dataset.val, StreamSplit)
    resize = dataset.val.resize if streamed else None
    return ImageInputs(height, width, dataset.mean, dataset.std, resize)


def _check_kind(backbone: Backbone, kind: str) -> None:
    if backbone.input_kind != kind:
        raise UserError(
            f"inputs are of kind {kind!r}, but {backbone.name!r} reads "
            f"{backbone.input_kind!r}; give inputs of that kind"
        )
