"""One exit of a running policy: who leaves there, and their answers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from eenet_jax.backbones.staged import Backbone
from eenet_jax.schedulers.evidence import Evidence, pooled
from eenet_jax.schedulers.policy import Policy, choose_rows

QUARTERS = 4  # of the samples are run at once where a head is for some of them only


def take_exit(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    k: int,
    carry: Any,
    trail: Any,
    latest_exit: jax.Array,
    there: jax.Array,
    tile: int | None = None,
) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
    """Asks the policy who of S samples leaves at exit ``k``.

    Where nobody may, the head is not run, unless later scores need it. A gate on the
    exit's features is asked before the head, which then runs for those who leave only.
    A policy that skips has it run for those whom it asks.

    Args:
      backbone: The network.
      variables: Its variables.
      policy: The policy.
      k: Exit, 0-based.
      carry: Behind the stage, leaves ``[S, ...]``.
      trail: The policy's, likewise.
      latest_exit: The last exit that each sample may wait for, int ``[S]``.
      there: Which of the samples count, bool ``[S]``.
      tile: How many of those who count the head takes at a time; None: all S at once,
        counting or not.

    Returns:
      The trail behind the exit, scores ``[S]``, the logits of the answers ``[S, C]``
      or ``[S, h, w, C]`` (of those who leave, at least), and who leaves, bool ``[S]``.
    """
    size, is_last = len(there), k == backbone.num_exits - 1
    head = functools.partial(backbone.head, k, variables)
    nothing = jnp.zeros(jax.eval_shape(head, carry).shape, jnp.float32)
    features = functools.partial(backbone.exit_features, k, variables)
    must_leave = there & (latest_exit <= k)
    may_leave = (policy.thresholds[k] < jnp.inf) | jnp.any(must_leave)
    for_those = functools.partial(for_some, tile=tile or -(-size // QUARTERS))

    def ask(operand):
        carry, trail = operand
        logits, read = head(carry), lambda: features(carry)
        if backbone.output_kind == "map":
            mean, confidence = pooled(logits)
            evidence = Evidence(mean, read, confidence)
        else:
            evidence = Evidence(logits, read)
        answer = policy.output(k, logits, trail)
        return answer, *policy.step(k, evidence, trail)

    def ask_gate(operand):
        carry, trail = operand
        evidence = Evidence(lazy_features=lambda: features(carry))
        score, trail = policy.step(k, evidence, trail)
        leaves = there & ((score >= policy.thresholds[k]) | must_leave)

        def answer(carry):  # the trail is without leaves, as the policy looks not back
            return policy.output(k, head(carry), trail)

        return for_those(answer, carry, leaves, nothing), score, trail

    def pass_by(operand):
        return nothing, jnp.full(size, -jnp.inf, jnp.float32), operand[1]

    operand = carry, trail
    if policy.skips and not is_last:
        asked = there & (policy.asks(k, trail) | must_leave)
        answer, score, trail = for_those(ask, operand, asked, pass_by(operand))
    elif not policy.reads_logits and not is_last:
        answer, score, trail = jax.lax.cond(may_leave, ask_gate, pass_by, operand)
    elif tile is not None:
        asked = there if policy.looks_back or is_last else there & may_leave
        answer, score, trail = for_those(ask, operand, asked, pass_by(operand))
    elif policy.looks_back or is_last:
        answer, score, trail = ask(operand)
    else:
        answer, score, trail = jax.lax.cond(may_leave, ask, pass_by, operand)
    leaves = there & ((score >= policy.thresholds[k]) | must_leave)
    return trail, score, answer, leaves


def for_some(
    function: Callable[[Any], Any],
    operand: Any,
    wanted: jax.Array,
    otherwise: Any,
    tile: int,
) -> Any:
    """Runs a function of rows for those that are ``wanted``, some at a time.

    Args:
      function: From and to pytrees whose leaves have the rows as leading axis.
      operand: Its argument, leaves ``[S, ...]``.
      wanted: bool ``[S]``.
      otherwise: The result for the other rows, leaves ``[S, ...]``.
      tile: Rows at a time, at most S. They are gathered, and the last ones filled up.
    """
    count, number = len(wanted), jnp.sum(wanted)
    if tile == count:  # a loop of one pass would be run whoever is wanted

        def run_all(operand):
            return choose_rows(wanted, function(operand), otherwise)

        return jax.lax.cond(number > 0, run_all, lambda _: otherwise, operand)
    place = places(wanted, count)

    def run(i, results):
        # The last tile begins early enough to end with the last row.
        start = jnp.minimum(i * tile, count - tile)
        rows = jax.lax.dynamic_slice_in_dim(place, start, tile)
        found = function(jax.tree.map(lambda leaf: leaf[rows], operand))
        target = jnp.where(start + jnp.arange(tile) < number, rows, count)
        return jax.tree.map(
            lambda all_rows, new: all_rows.at[target].set(new, mode="drop"),
            results,
            found,
        )

    return jax.lax.fori_loop(0, -(-number // tile), run, otherwise)


def places(there: jax.Array, size: int) -> jax.Array:
    """Returns the indices of the True values, in order, padded with 0 to ``size``."""
    rank = jnp.cumsum(there, dtype=jnp.int32) - 1
    target = jnp.where(there, rank, size)
    numbers = jnp.arange(len(there), dtype=jnp.int32)
    return jnp.zeros(size, jnp.int32).at[target].set(numbers, mode="drop")
