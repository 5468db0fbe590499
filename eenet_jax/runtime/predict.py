"""Answers images or texts with an exported bundle, as CSV.

    python -m eenet_jax.runtime.predict --bundle=bundle --input=images --out=answers.csv

A row has the input (an image's file, a row of an array from 0, or the text), the label,
the class's name where it is known, its probability, and the exit taken, from 1.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from absl import flags

from eenet_jax import errors
from eenet_jax.errors import UserError
from eenet_jax.files import replacing

_BUNDLE = flags.DEFINE_string("bundle", None, "Directory of runtime.export.")
_INPUT = flags.DEFINE_string(
    "input",
    None,
    "An image, a directory of images, an .npy file (pixels as uint8 [N, H, W, C], or "
    "normalised as float32 [N, H, W, 3]), or a .txt file with one text a line.",
)
_OUT = flags.DEFINE_string("out", None, "CSV file to write; by default to stdout.")


def main(argv: Sequence[str]) -> None:
    """Answers and writes the table."""
    del argv
    from eenet_jax.runtime.answers import write_answers
    from eenet_jax.runtime.bundle import load_bundle

    for flag in (_BUNDLE, _INPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; see --help")
    bundle, path = load_bundle(_BUNDLE.value), pathlib.Path(_INPUT.value)
    with _output() as stream:
        count = write_answers(bundle, path, stream)
    if _OUT.value:
        print(f"{count} answers written: {_OUT.value}")


@contextlib.contextmanager
def _output() -> Iterator[TextIO]:
    """Yields stdout, or a file that is written whole or not at all."""
    if not _OUT.value:
        yield sys.stdout
        return
    try:
        with replacing(pathlib.Path(_OUT.value)) as temporary:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                yield stream
    except OSError as error:
        raise UserError(f"--out={_OUT.value} cannot be written: {error}") from None


if __name__ == "__main__":
    errors.run(main)
