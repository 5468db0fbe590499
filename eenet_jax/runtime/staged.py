"""Runs a network with its policy as one program: who has left is computed no further.

Before each stage the samples that are still there are gathered, and ``lax.switch`` runs
the stage on the smallest size of a static ladder that holds them. Every size has to be
compiled, which for a network of many exits is too much: there a loop runs each stage on
some of the samples at a time. Where nobody is left, the program ends. Shapes are fixed,
so the whole is one compiled program without a round trip to the host.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from eenet_jax.backbones.staged import MANY_EXITS, Backbone
from eenet_jax.distributed import DATA_AXIS
from eenet_jax.errors import UserError
from eenet_jax.runtime.bundle_inputs import check_limits
from eenet_jax.runtime.checks import check_inputs, check_policy
from eenet_jax.runtime.exit_step import for_some, places, take_exit
from eenet_jax.runtime.prediction import Prediction
from eenet_jax.schedulers.policy import Policy, choose_rows

Ladder = tuple[int, ...] | int
Ladders = tuple[Ladder, ...]


class _State(NamedTuple):
    """The samples between two exits; those of them that are ``there`` count.

    ``rows`` says which sample of the batch each is, and indexes ``answers``.
    """

    carry: Any
    trail: Any
    rows: jax.Array
    there: jax.Array
    answers: tuple[jax.Array, jax.Array, jax.Array]  # logits, exit, score


def default_ladders(num_exits: int, batch_size: int) -> Ladders:
    """Returns eighths of the batch, rounded up, for every stage but the first.

    For networks of many exits it is tiles of one eighth.

    Args:
      num_exits: K.
      batch_size: B, of one device.
    """
    eighths = sorted({-(-batch_size * i // 8) for i in range(1, 9)})
    if num_exits > MANY_EXITS:
        return ((batch_size,), *(eighths[0],) * (num_exits - 1))
    return ((batch_size,), *(tuple(eighths),) * (num_exits - 1))


def adaptive_predict(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    x: Any,
    *,
    ladders: Ladders | None = None,
    latest_exit: Any = None,
    mesh: Mesh | None = None,
    check: bool = True,
) -> Prediction:
    """Answers a batch, each sample at the first exit where the policy lets it leave.

    One compiled program for a network, a batch size and ladders. Other policies of the
    same scheduler (another budget) and other ``latest_exit`` need no new one.

    Args:
      backbone: The network.
      variables: Its variables.
      policy: For this network's exits and classes.
      x: float32 ``[B, H, W, 3]``, normalised, or ``{"ids": int32 [B, T], "mask":
        [B, T]}``.
      ladders: For each stage the sizes that it is compiled for, increasing, the last B
        (with ``mesh`` the batch of one device); or an int: it is compiled for so many,
        and run until all that are left are through. None for ``default_ladders``.
      latest_exit: A hard limit: the last exit (0-based) that each sample may wait for,
        int ``[B]`` or one for all; None for the network's last.
      mesh: Spreads the batch over its data axis; each device gathers its own samples.
      check: Whether to look for NaN, infinity and unknown token ids in ``x`` first,
        which waits for it.

    Raises:
      UserError: If the policy, the inputs, the ladders or the limits do not fit.
    """
    check_policy(backbone, policy)
    batch_size = check_inputs(backbone, x, finite=check)
    devices = mesh.shape[DATA_AXIS] if mesh is not None else 1
    if batch_size % devices:
        raise UserError(
            f"a batch of {batch_size} cannot be spread over {devices} devices; pad it "
            f"to {-(-batch_size // devices) * devices}"
        )
    if ladders is None:
        ladders = default_ladders(backbone.num_exits, batch_size // devices)
    check_ladders(ladders, backbone.num_exits, batch_size // devices)
    limit = _limits(latest_exit, batch_size, backbone.num_exits)
    return program(backbone, ladders, mesh)(variables, policy, x, limit)


@functools.cache
def program(backbone: Backbone, ladders: Ladders, mesh: Mesh | None):
    """Returns the jitted ``(variables, policy, x, latest_exit [B]) -> Prediction``.

    What ``adaptive_predict`` runs once it has checked its arguments.
    """
    run = functools.partial(run_batch, backbone, ladders)
    if mesh is not None:
        whole, shard = PartitionSpec(), PartitionSpec(DATA_AXIS)
        specs = (whole, whole, shard, shard)
        run = jax.shard_map(
            run, mesh=mesh, in_specs=specs, out_specs=shard, check_vma=False
        )
    return jax.jit(run)


def run_batch(
    backbone: Backbone,
    ladders: Ladders,
    variables: Any,
    policy: Policy,
    x: Any,
    latest_exit: jax.Array,
) -> Prediction:
    """Runs a batch through all stages; pure, see ``adaptive_predict``."""
    batch_size = len(latest_exit)
    state = _State(
        carry=backbone.stem(variables, x),
        trail=policy.init_trail(batch_size),
        rows=jnp.arange(batch_size, dtype=jnp.int32),
        there=jnp.ones(batch_size, bool),
        answers=(
            jnp.zeros((batch_size, *backbone.answer_shape(variables, x)), jnp.float32),
            jnp.zeros(batch_size, jnp.int32),
            jnp.zeros(batch_size, jnp.float32),
        ),
    )

    def go_on(k: int, state: _State) -> tuple[jax.Array, ...]:
        """Runs stages k, k + 1, ... while someone is there; returns the answers."""
        visit = functools.partial(_visit, backbone, variables, policy, latest_exit, k)
        ladder = ladders[k] if k else (batch_size,)  # at first everyone is there
        if isinstance(ladder, int):
            tiles = functools.partial(_visit_tiles, backbone, variables, policy)
            state = tiles(latest_exit, k, ladder, state)
        else:
            rung = jnp.searchsorted(jnp.array(ladder), jnp.sum(state.there))
            branches = [functools.partial(visit, size) for size in ladder]
            state = jax.lax.switch(rung, branches, state)
        if k + 1 == backbone.num_exits:
            return state.answers
        following = functools.partial(go_on, k + 1)
        return jax.lax.cond(
            jnp.any(state.there), following, lambda state: state.answers, state
        )

    logits, exit_index, score = go_on(0, state)
    label = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return Prediction(jax.nn.softmax(logits), label, exit_index, score)


def _visit(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    latest_exit: jax.Array,
    k: int,
    size: int,
    state: _State,
) -> _State:
    """Runs stage ``k`` and its exit on ``size`` places, enough for all that are there.

    The result has B places whatever the size: branches of a switch have equal shapes.
    """
    batch_size = len(latest_exit)
    carry, trail, rows, there, answers = state
    if size < batch_size:
        place = places(there, size)
        carry, trail, rows = jax.tree.map(lambda leaf: leaf[place], state[:3])
        there = jnp.arange(size) < jnp.sum(there)
    carry = backbone.stage(k, variables, carry)
    trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, latest_exit[rows], there
    )
    left = jnp.where(leaves, rows, batch_size)  # beyond the end: dropped
    answers = tuple(
        of_all.at[left].set(ours, mode="drop")
        for of_all, ours in zip(answers, (answer, k, score), strict=True)
    )
    if k == backbone.num_exits - 1:  # latest_exit is at most k: everyone has left
        carry, trail = (), ()
    between = (carry, trail, rows, there & ~leaves)
    between = jax.tree.map(lambda leaf: pad_rows(leaf, batch_size), between)
    return _State(*between, answers)


def _visit_tiles(
    backbone: Backbone,
    variables: Any,
    policy: Policy,
    latest_exit: jax.Array,
    k: int,
    tile: int,
    state: _State,
) -> _State:
    """Runs stage ``k`` and its exit on ``tile`` of those who are there at a time.

    Everyone keeps their place.
    """
    carry, trail, rows, there, answers = state
    stage = functools.partial(backbone.stage, k, variables)
    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(stage, carry)
    )
    carry = for_some(stage, carry, there, nothing, tile)
    trail, score, answer, leaves = take_exit(
        backbone, variables, policy, k, carry, trail, latest_exit, there, tile
    )
    answers = choose_rows(
        leaves, (answer, jnp.full_like(answers[1], k), score), answers
    )
    return _State(carry, trail, rows, there & ~leaves, answers)


def exit_alone(backbone: Backbone, k: int) -> Callable[[Any, Any], jax.Array]:
    """Returns the jitted ``(variables, x) -> logits [B, ..., C]`` of one exit.

    It is the network cut off there, without the exits before: what a policy is held
    against.
    """

    def run(variables: Any, x: Any) -> jax.Array:
        carry = backbone.stem(variables, x)
        for j in range(k + 1):
            carry = backbone.stage(j, variables, carry)
        return backbone.head(k, variables, carry)

    return jax.jit(run)


def pad_rows(leaf: jax.Array, size: int) -> jax.Array:
    """Appends rows of zeros up to ``size``."""
    missing = [(0, size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
    return jnp.pad(leaf, missing)


def _limits(latest_exit: Any, batch_size: int, num_exits: int) -> jax.Array:
    if isinstance(latest_exit, jax.core.Tracer):
        return jnp.broadcast_to(latest_exit, batch_size).astype(jnp.int32)
    return jnp.asarray(check_limits(latest_exit, batch_size, num_exits))


def check_ladders(ladders: Ladders, num_exits: int, batch_size: int) -> None:
    """Raises a UserError if ladders are not for this network and batch of a device."""
    for k, ladder in enumerate(ladders):
        if isinstance(ladder, int):
            if not (k and 1 <= ladder <= batch_size):
                raise UserError(
                    f"ladders[{k}]={ladder} must be a tile of 1 to the batch of one "
                    f"device, {batch_size}, and behind the first stage"
                )
            continue
        increasing = all(a < b for a, b in zip(ladder, ladder[1:], strict=False))
        if not ladder or ladder[0] < 1 or ladder[-1] != batch_size or not increasing:
            raise UserError(
                f"ladders[{k}]={ladder} must increase from 1 or more and end with the "
                f"batch of one device, {batch_size}"
            )
    if len(ladders) != num_exits:
        raise UserError(
            f"ladders has {len(ladders)} entries, the network {num_exits} stages; give "
            "one for each"
        )
