"""Where early exits may stand."""

import itertools
from collections.abc import Sequence

from eenet_jax.errors import UserError


def check_exits(
    exits: Sequence[int], count: int, *, first: int = 0, what: str = "block"
) -> tuple[int, ...]:
    """Returns the early exits' locations, or says what is wrong with them.

    Args:
      exits: Locations: an exit at L follows the first L blocks.
      count: Number of blocks; the exit after the last is always there, unnamed.
      first: The least location; 1 where an exit must not come before the first block.
      what: What a network's blocks are called.

    Raises:
      UserError: If a location lies outside first .. count - 1 or they do not increase.
    """
    exits = tuple(exits)
    remedy = (
        f"choose increasing {what} counts from {first} to {count - 1} "
        f"(the exit after the last {what} is always there)"
    )
    for location in exits:
        if type(location) is not int or not first <= location < count:
            raise UserError(
                f"model.exits={exits}: no exit can be at {location!r}; {remedy}"
            )
    if any(a >= b for a, b in itertools.pairwise(exits)):
        raise UserError(f"model.exits={exits} do not increase; {remedy}")
    return exits
