"""Mistakes of the caller's, and how a command reports them."""

import ast
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging


class UserError(ValueError):
    """A mistake in what the user gave: the message names field, value and remedy."""


class Preempted(Exception):
    """The run was told to stop, and has saved what it needs to go on."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command's ``main`` under absl; mistakes end in one line and status 1.

    A wrong flag, an unknown config field and a ``UserError`` are printed as
    ``error: ...`` on stderr, without a traceback. Anything else is a bug of ours and
    keeps its traceback.

    A run that was told to stop ends with status 143, that of SIGTERM.

    Args:
      main: Takes the arguments left after flag parsing, the program's name first.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except (AttributeError, KeyError) as error:
            _stop(f"--config has no such field: {_unquoted(error)}")
        except Exception as error:  # of a flag, or of the user's config file
            _stop(str(error))

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _stop(f"unexpected argument {argv[1]!r}; flags are --name=value")
        if flags.FLAGS.verbosity <= 0:
            logging.set_verbosity(logging.ERROR)  # Orbax and TFDS report every file
        try:
            main(argv)
        except UserError as error:
            _stop(str(error))
        except Preempted as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(143) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    app.run(guarded, flags_parser=parse)


def _unquoted(error: Exception) -> str:
    """Returns the message of ml_collections' nested KeyErrors on one plain line."""
    text = str(error)
    while text[:1] in ("'", '"'):
        try:
            text = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            break
    return " ".join(text.split())


def _stop(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(1) from None
