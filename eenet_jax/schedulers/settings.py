"""Names of schedulers with hyper-parameters: "lagrangian:stopping+units=32+folds=3".

After the colon stand a variant and any of its recipe's fields, with "+" between. Tuples
have ":" between their values (ridges=10:100), and "x" in pairs of values
(penalties=1e-3x0:1e-3x0.5). Of alternatives, with "/" between (units=32/128),
``expand`` makes a name each.
"""

import difflib
import itertools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eenet_jax.errors import UserError

# Whole numbers begin at 1, but for these.
LEAST = {"folds": 2, "prices": 4, "alphas": 2}
# Numbers are above 0, but for weights of what may be left out.
MAY_BE_ZERO = (
    *("decays", "decay", "penalties", "pull"),
    *("score_weight", "ce_weight", "cost_weight", "beta"),
)
_BETWEEN = re.compile(r"\+(?=[A-Za-z_])")  # not that of 1e+3


class Variant(NamedTuple):
    """What a variant of a scheduler can be given.

    Attributes:
      recipe: Its hyper-parameters by default, a NamedTuple; None if it has none.
      unread: Fields that it makes no use of.
    """

    recipe: Any = None
    unread: Sequence[str] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The hyper-parameters that can be given."""
        every = () if self.recipe is None else self.recipe._fields
        return tuple(name for name in every if name not in self.unread)


def split(name: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Returns scheduler, variant ("" if none) and the fields given, of a name."""
    base, _, rest = name.partition(":")
    parts = _BETWEEN.split(rest)
    given = [part.partition("=") for part in parts if "=" in part]
    variant = "+".join(part for part in parts if "=" not in part)
    return base, variant, [(field, value) for field, _, value in given]


def without(name: str) -> str:
    """Returns a name without its hyper-parameters."""
    base, variant, _ = split(name)
    return f"{base}:{variant}" if variant else base


def expand(name: str) -> list[str]:
    """Returns a name for every combination of the alternatives in one.

    Example:
      >>> expand("lagrangian:units=32/64+folds=3/5")[1]
      'lagrangian:units=32+folds=5'
    """
    _, _, given = split(name)
    if not any("/" in value for _, value in given):
        return [name]
    start = without(name)
    start += "+" if ":" in start else ":"
    choices = [[f"{field}={v}" for v in value.split("/")] for field, value in given]
    return [start + "+".join(chosen) for chosen in itertools.product(*choices)]


def read(name: str, variants: Mapping[str, Variant]) -> tuple[str, Any]:
    """Reads what stands behind the colon.

    Args:
      name: The whole name.
      variants: Of this scheduler, "" for the one without a name.

    Returns:
      The variant, and its recipe with what was given; None if it has none.

    Raises:
      UserError: If there is no such variant or field, or a value cannot be.
    """
    base, variant, given = split(name)
    if variant not in variants or name == f"{base}:":
        choices = [f"{base}:{v}" for v in variants if v] or [base]
        raise UserError(f"--scheduler={name!r} is unknown; choose from {choices}")
    recipe, fields = variants[variant].recipe, variants[variant].fields
    values: dict[str, Any] = {}
    for field, text in given:
        if field not in fields:
            raise UserError(
                f"--scheduler={name!r}: {without(name)} {_no_field(field, fields)}"
            )
        if field in values:
            raise UserError(
                f"--scheduler={name!r} has {field} twice; alternatives are written "
                f"{field}=A/B"
            )
        kind = typing.get_type_hints(type(recipe))[field]
        try:
            values[field] = _value(field, text, kind)
        except ValueError:
            raise UserError(
                f"--scheduler={name!r}: {field}={text} must be {_wanted(field, kind)}"
            ) from None
    if not values:
        return variant, recipe
    recipe = recipe._replace(**values)
    _check_together(name, recipe)
    return variant, recipe


def _no_field(field: str, fields: Sequence[str]) -> str:
    if not fields:
        return "has no hyper-parameters; give the name alone"
    close = difflib.get_close_matches(field, fields, 1)
    hint = f". Did you mean {close[0]!r}?" if close else ""
    return f"has no {field!r}; choose from {', '.join(fields)}{hint}"


def _value(field: str, text: str, kind: Any) -> Any:
    """Reads a value; a ``ValueError`` if it is none, or out of bounds."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:  # a number or None
        return _value(field, text, inner[0])
    if inner and inner[-1] is ...:
        return tuple(_value(field, part, inner[0]) for part in text.split(":"))
    if inner:  # a strength, and a share that is dropped
        pair = tuple(map(float, text.split("x")))
        if len(pair) != 2 or not (0 <= pair[0] < math.inf and 0 <= pair[1] < 1):
            raise ValueError
        return pair
    if kind is bool:
        return bool(("0", "1").index(text))
    value = kind(text)
    least = LEAST.get(field, 1) if kind is int else 0
    zero = value == 0 and kind is float and field not in MAY_BE_ZERO
    if not least <= value < math.inf or zero:
        raise ValueError
    return value


def _wanted(field: str, kind: Any) -> str:
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        return _wanted(field, inner[0])
    if inner and inner[-1] is ...:
        if typing.get_args(inner[0]):
            return (
                "strengths of at least 0 with shares in [0, 1), as in "
                f"{field}=1e-3x0:1e-3x0.5"
            )
        return f"{_wanted(field, inner[0])}, or several, as in {field}=10:100"
    if kind is bool:
        return "0 or 1"
    if kind is int:
        return f"a whole number of at least {LEAST.get(field, 1)}"
    return f"a number {'of at least' if field in MAY_BE_ZERO else 'above'} 0"


def _check_together(name: str, recipe: Any) -> None:
    """Refuses values that do not go together."""
    if "lowest" in recipe._fields and recipe.lowest >= recipe.highest:
        raise UserError(
            f"--scheduler={name!r}: lowest={recipe.lowest:g} must be below "
            f"highest={recipe.highest:g}"
        )
    if "check_every" not in recipe._fields:
        return
    for field in ("steps", "score_steps"):
        if getattr(recipe, field) % recipe.check_every:
            raise UserError(
                f"--scheduler={name!r}: {field}={getattr(recipe, field)} must be a "
                f"multiple of check_every={recipe.check_every}"
            )
