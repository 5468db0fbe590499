"""One exit of a running policy: its stage, who leaves there, and their answers."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from eenet_jax.backbones.staged import Backbone
from eenet_jax.schedulers.evidence import Evidence
from eenet_jax.schedulers.policy import Policy, choose_rows


def take_exit(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    k: int,
    carry: Any,
    trail: Any,
    latest_exit: jax.Array,
    there: jax.Array,
) -> tuple[Any, Any, jax.Array, jax.Array, jax.Array]:
    """Runs stage ``k`` and asks the policy who may leave.

    Where nobody may, the head is not run, unless later scores need it. A gate on the
    exit's features is asked before the head, which then runs for those who leave only.
    A policy that skips has it run for those whom it asks.

    Args:
      backbone: The network.
      variables: Its variables.
      policy: The policy.
      k: Stage and exit, 0-based.
      carry: Before the stage, leaves ``[S, ...]``.
      trail: The policy's, likewise.
      latest_exit: The last exit that each sample may wait for, int ``[S]``.
      there: Which of the samples count, bool ``[S]``.

    Returns:
      Carry and trail behind the exit, scores ``[S]``, the logits of the answers
      ``[S, C]`` (of those who leave, at least), and who leaves, bool ``[S]``.
    """
    carry = backbone.stage(k, variables, carry)
    size = len(latest_exit)
    head = functools.partial(backbone.head, k, variables)
    features = functools.partial(backbone.exit_features, k, variables)
    nothing = jnp.zeros((size, backbone.num_classes), jnp.float32)

    def test(carry, trail):
        evidence = Evidence(head(carry), lambda: features(carry))
        answer = policy.output(k, evidence.logits, trail)
        score, trail = policy.step(k, evidence, trail)
        leaves = (score >= policy.thresholds[k]) | (latest_exit <= k)
        return trail, score, answer, leaves

    def test_first(carry, trail):
        evidence = Evidence(lazy_features=lambda: features(carry))
        score, trail = policy.step(k, evidence, trail)
        leaves = (score >= policy.thresholds[k]) | (latest_exit <= k)

        def answer(carry):
            return policy.output(k, head(carry), trail)

        answers = _of_some(answer, carry, leaves & there, nothing)
        return trail, score, answers, leaves

    def test_asked(carry, trail):
        asked = there & (policy.asks(k, trail) | (latest_exit <= k))

        def ask(operands):
            evidence = Evidence(head(operands[0]))
            answer = policy.output(k, evidence.logits, operands[1])
            return answer, *policy.step(k, evidence, operands[1])

        unasked = nothing, jnp.full(size, -jnp.inf, jnp.float32), trail
        answer, score, trail = _of_some(ask, (carry, trail), asked, unasked)
        leaves = asked & ((score >= policy.thresholds[k]) | (latest_exit <= k))
        return trail, score, answer, leaves

    def pass_by(carry, trail):
        return trail, jnp.zeros(size, jnp.float32), nothing, jnp.zeros(size, bool)

    if policy.looks_back or k == backbone.num_exits - 1:
        return carry, *test(carry, trail)
    if policy.skips:
        return carry, *test_asked(carry, trail)
    asked = (policy.thresholds[k] < jnp.inf) | jnp.any(there & (latest_exit <= k))
    step = test if policy.reads_logits else test_first
    return carry, *jax.lax.cond(asked, step, pass_by, carry, trail)


def _of_some(function, operand: Any, wanted: jax.Array, otherwise: Any) -> Any:
    """Runs a function for those samples that are ``wanted``, bool ``[S]``.

    They are gathered to the smallest of a quarter, a half and all of the places that
    holds them. For the others it gives the rows of ``otherwise``, of like leaves.
    """
    count = len(wanted)
    sizes = (0, *sorted({-(-count // 4), -(-count // 2), count}))

    def run(size, operand, otherwise):
        if size == 0:
            return otherwise
        if size == count:
            return choose_rows(wanted, function(operand), otherwise)
        place = places(wanted, size)
        found = function(jax.tree.map(lambda leaf: leaf[place], operand))
        target = jnp.where(jnp.arange(size) < jnp.sum(wanted), place, count)
        return jax.tree.map(
            lambda rest, rows: rest.at[target].set(rows, mode="drop"), otherwise, found
        )

    rung = jnp.searchsorted(jnp.array(sizes, jnp.int32), jnp.sum(wanted))
    branches = [functools.partial(run, size) for size in sizes]
    return jax.lax.switch(rung, branches, operand, otherwise)


def places(there: jax.Array, size: int) -> jax.Array:
    """Returns the indices of the True values, in order, padded with 0 to ``size``."""
    rank = jnp.cumsum(there, dtype=jnp.int32) - 1
    target = jnp.where(there, rank, size)
    numbers = jnp.arange(len(there), dtype=jnp.int32)
    return jnp.zeros(size, jnp.int32).at[target].set(numbers, mode="drop")
