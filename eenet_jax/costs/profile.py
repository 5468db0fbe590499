"""The time of each stage at each batch size, on the device at hand, as a file."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from eenet_jax.backbones.staged import MANY_EXITS, Backbone
from eenet_jax.costs.exits import ExitCosts
from eenet_jax.errors import UserError
from eenet_jax.files import write_text
from eenet_jax.stopwatch import take_turns


@dataclasses.dataclass(frozen=True)
class Profile:
    """Milliseconds a batch of each stage with its head, at several batch sizes.

    Attributes:
      network: Name of the network.
      dtype: Compute type.
      device: Kind of device, e.g. "NVIDIA H200" or "cpu".
      versions: Of jax and jaxlib.
      repeats: Timed runs behind each median.
      sizes: S batch sizes, increasing; the last is the whole batch B.
      stage_ms: Medians ``[K, S]``; the first stage's contain the stem.
      spread_ms: First and third quartile, ``[2, K, S]``.
      gather_ms: Of picking any of B samples out before a stage, and padding what comes
        out of it to B again, ``[K]``.
      head_ms: Of each head alone on a whole batch, ``[K]``; None in files of earlier
        versions.
      samples_per_input: Blocks an image is cut into; 1 where it is not.
    """

    network: str
    dtype: str
    device: str
    versions: str
    repeats: int
    sizes: tuple[int, ...]
    stage_ms: np.ndarray
    spread_ms: np.ndarray
    gather_ms: np.ndarray
    head_ms: np.ndarray | None = None
    samples_per_input: int = 1

    @property
    def batch_size(self) -> int:
        """B."""
        return self.sizes[-1]

    @property
    def per_sample_ms(self) -> np.ndarray:
        """Milliseconds per sample of each stage in a whole batch, ``[K]``."""
        return self.stage_ms[:, -1] / self.batch_size

    def exit_costs(self, samples: int = 1) -> ExitCosts:
        """Returns milliseconds of so many samples up to each exit, in a whole batch."""
        details = {
            name: getattr(self, name)
            for name in ("network", "dtype", "device", "versions", "repeats")
        }
        details |= {"batch_size": self.batch_size, "stage_ms": self.stage_ms.tolist()}
        costs, heads = np.cumsum(self.per_sample_ms), None
        if self.head_ms is not None:  # timed apart, so rarely longer than both
            heads = np.minimum(self.head_ms, self.stage_ms[:, -1]) / self.batch_size
            heads = samples * heads
        return ExitCosts(samples * costs, heads, "latency_ms", details)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the profile as JSON."""
        fields = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(self).items()
        }
        write_text(pathlib.Path(path), json.dumps(fields, indent=2) + "\n")


def load_profile(path: str | pathlib.Path, backbone: Backbone) -> Profile:
    """Reads the profile of a network.

    Raises:
      UserError: If the file is missing, no profile, or of another network or compute
        type.
    """
    path = pathlib.Path(path)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        for name in ("stage_ms", "spread_ms", "gather_ms"):
            fields[name] = np.asarray(fields[name], np.float64)
        if fields.get("head_ms") is not None:
            fields["head_ms"] = np.asarray(fields["head_ms"], np.float64)
        profile = Profile(**{**fields, "sizes": tuple(fields["sizes"])})
    except OSError as error:
        raise UserError(f"--profile={path} cannot be read: {error}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--profile={path} is no profile ({error!r}); make one with "
            "python -m eenet_jax.runtime.profile"
        ) from None
    blocks = profile.samples_per_input
    theirs = profile.network, profile.dtype, len(profile.gather_ms), blocks
    ours = (
        *(backbone.name, backbone.dtype, backbone.num_exits),
        backbone.samples_per_input,
    )
    if theirs != ours:
        raise UserError(
            f"--profile={path} is of {_described(*theirs)}; the network is "
            f"{_described(*ours)}"
        )
    shape = (backbone.num_exits, len(profile.sizes))
    usable = profile.stage_ms.shape == shape and (profile.stage_ms > 0).all()
    if profile.head_ms is not None:
        usable = usable and profile.head_ms.shape == shape[:1]
    if not usable or (np.diff(profile.sizes, prepend=0) < 1).any():
        raise UserError(
            f"--profile={path}: stage_ms must be {list(shape)} positive milliseconds "
            f"for increasing sizes, it is {list(profile.stage_ms.shape)}; and head_ms, "
            f"where it is given, {list(shape[:1])}"
        )
    return profile


def _described(name: str, dtype: str, num_exits: int, blocks: int) -> str:
    cut = f", {blocks} blocks an image" if blocks > 1 else ""
    return f"{name!r}, {dtype}, {num_exits} exits{cut}"


def measure_profile(
    backbone: Backbone,
    variables: Any,
    x: Any,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 20,
) -> Profile:
    """Times every stage at every size; all take turns, so that drift meets all alike.

    Args:
      backbone: The network.
      variables: Its variables.
      x: Inputs of a whole batch; where they are cut into blocks, these are samples.
      sizes: Increasing, the last the batch's; None for eighths of it, of which some
        are left out for networks of many exits.
      repeats: Timed runs of each.
    """
    batch_size = jax.tree.leaves(x)[0].shape[0] * backbone.samples_per_input
    if sizes is None:
        eighths = range(1, 9) if backbone.num_exits <= MANY_EXITS else (1, 2, 4, 8)
        sizes = sorted({-(-batch_size * i // 8) for i in eighths})
    carries, carry = [], jax.jit(backbone.stem)(variables, x)
    for k in range(backbone.num_exits):
        carries.append(carry)
        carry = jax.jit(backbone.stage, static_argnums=0)(k, variables, carry)
    carries.append(carry)
    timed = {}
    for k in range(backbone.num_exits):
        part = jax.jit(_part(backbone, k))
        for size in sizes:
            given = jax.tree.map(lambda leaf: leaf[:size], x if k == 0 else carries[k])  # noqa: B023
            timed[k, size] = functools.partial(part, variables, given)
        timed[k, "gather"] = functools.partial(jax.jit(_gather), *carries[k : k + 2])
        head = jax.jit(functools.partial(backbone.head, k))
        timed[k, "head"] = functools.partial(head, variables, carries[k + 1])
    taken = take_turns(timed, repeats, "profile")
    exits = range(backbone.num_exits)
    quartiles = np.array(
        [
            [np.quantile(taken[k, size], (0.25, 0.5, 0.75)) for size in sizes]
            for k in exits
        ]
    )
    return Profile(
        network=backbone.name,
        dtype=backbone.dtype,
        device=jax.devices()[0].device_kind,
        versions=f"jax {jax.__version__}, jaxlib {jaxlib.__version__}",
        repeats=repeats,
        sizes=tuple(int(size) for size in sizes),
        stage_ms=quartiles[:, :, 1],
        spread_ms=quartiles[:, :, ::2].transpose(2, 0, 1),
        gather_ms=np.array([np.median(taken[k, "gather"]) for k in exits]),
        head_ms=np.array([np.median(taken[k, "head"]) for k in exits]),
        samples_per_input=backbone.samples_per_input,
    )


def _part(backbone: Backbone, k: int) -> Any:
    """Returns ``(variables, carry or inputs) -> (carry, logits)`` of one stage."""

    def run(variables: Any, carry: Any) -> Any:
        if k == 0:
            carry = backbone.stem(variables, carry)
        carry = backbone.stage(k, variables, carry)
        return carry, backbone.head(k, variables, carry)

    return run


def _gather(before: Any, after: Any) -> Any:
    """Picks samples out of a carry, and pads another, as ``runtime.staged`` does."""
    size = jax.tree.leaves(before)[0].shape[0]
    half = -(-size // 2)
    picked = jax.tree.map(lambda leaf: leaf[jnp.arange(0, size, 2)], before)
    padded = jax.tree.map(
        lambda leaf: jnp.pad(
            leaf[:half], [(0, size - half)] + [(0, 0)] * (leaf.ndim - 1)
        ),
        after,
    )
    return picked, padded
