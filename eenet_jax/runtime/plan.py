"""Where gathering the samples that are left pays, by the profile of a device."""

from typing import NamedTuple

import numpy as np

from eenet_jax.backbones.staged import MANY_EXITS
from eenet_jax.costs.profile import Profile
from eenet_jax.runtime.staged import Ladder, Ladders

LEAST_GAIN = 0.05  # of a stage's time, for a size to be worth its compilation


class Plan(NamedTuple):
    """Sizes to compile, and why.

    Attributes:
      ladders: For each stage its sizes, as ``adaptive_predict`` takes them.
      reason: One line for people.
    """

    ladders: Ladders
    reason: str


def plan_ladders(profile: Profile) -> Plan:
    """Keeps of the profiled sizes those that save at least 5 % over the next larger.

    A smaller size costs its stage's time and the gathering; the whole batch costs no
    gathering. Before the first exit everyone is there. In a network of many exits,
    stages are run in tiles instead, of the size that takes least on average, were each
    number of samples, from one to all, equally often left.
    """
    if len(profile.stage_ms) > MANY_EXITS:
        return _plan_tiles(profile)
    ladders = [(profile.batch_size,)]
    for times, gather in zip(profile.stage_ms[1:], profile.gather_ms[1:], strict=True):
        kept, last = [profile.batch_size], times[-1]
        for size, ms in list(zip(profile.sizes, times, strict=True))[-2::-1]:
            if ms + gather <= (1 - LEAST_GAIN) * last:
                kept.append(size)
                last = ms + gather
        ladders.append(tuple(reversed(kept)))
    return Plan(tuple(ladders), _reason(profile, ladders))


def _plan_tiles(profile: Profile) -> Plan:
    sizes, batch = np.array(profile.sizes), profile.batch_size
    # A call of its own, as each stage was timed, takes no less than any of them took.
    # One size for all stages: their sum is surer than any of them.
    ms = (profile.stage_ms[1:] - profile.stage_ms.min()).sum(axis=0)
    left = np.arange(1, batch + 1)
    passes = np.ceil(left[None] / sizes[:, None]).mean(axis=1)
    tile = int(sizes[::-1][np.argmin((passes * ms)[::-1])])  # of equal ones the largest
    if tile == batch:
        reason = f"whole batches of {batch}: tiles take longer on {profile.device}"
    else:
        reason = f"samples that are left of batches of {batch} run {tile} at a time"
    return Plan(((batch,), *[tile] * (len(profile.stage_ms) - 1)), reason)


def is_whole(ladder: Ladder, batch_size: int) -> bool:
    """Returns whether a stage runs on the whole batch, whoever is left."""
    return ladder in (batch_size, (batch_size,))


def _reason(profile: Profile, ladders: list[tuple[int, ...]]) -> str:
    batch = profile.batch_size
    if max(map(len, ladders)) > 1:
        sizes = "; ".join(
            f"stage {k}: {', '.join(map(str, ladder))}"
            for k, ladder in enumerate(ladders[1:], 2)
        )
        return f"samples that are left are gathered from batches of {batch} ({sizes})"
    if len(ladders) == 1:
        return f"whole batches of {batch}: the network has one stage"
    smallest = profile.stage_ms[1:, 0] + profile.gather_ms[1:]
    k = int(np.argmin(smallest / profile.stage_ms[1:, -1]))
    return (
        f"whole batches of {batch}: gathering does not pay on {profile.device}; at "
        f"best, stage {k + 2} takes {profile.stage_ms[k + 1, 0]:.3g} ms for "
        f"{profile.sizes[0]} samples and {profile.gather_ms[k + 1]:.3g} ms to gather "
        f"them, against {profile.stage_ms[k + 1, -1]:.3g} ms for all"
    )


def ideal_ms(
    profile: Profile, ladders: Ladders, exit_fraction: np.ndarray, unasked_ms: float
) -> float:
    """Returns the time per sample that a plan cannot beat.

    Args:
      profile: Of the device.
      ladders: The plan: stages of one size run on the whole batch, whoever is left.
      exit_fraction: Share of the samples that leaves at each exit, ``[K]``.
      unasked_ms: Mean time per sample of the heads before their exits that the policy
        does not ask for.

    Returns:
      Milliseconds: for each stage the share that it must run on, times its time per
      sample in a whole batch.
    """
    there = 1 - np.concatenate([[0], np.cumsum(exit_fraction)[:-1]])
    whole = np.array([is_whole(ladder, profile.batch_size) for ladder in ladders])
    needed = np.where(whole, there > 1e-12, there)
    return float(np.sum(needed * profile.per_sample_ms) - unasked_ms)
