"""The policy: when a sample may stop. One pure step, for replay and running alike."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.errors import UserError
from eenet_jax.files import load_arrays, save_arrays
from eenet_jax.predictions import Split
from eenet_jax.schedulers import adjust as adjust_lib
from eenet_jax.schedulers.evidence import Evidence
from eenet_jax.schedulers.scorers import SCORERS, Trail
from eenet_jax.schedulers.thresholds import first_exit


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "thresholds", "adjustment"),
    meta_fields=("scorer",),
)
@dataclasses.dataclass(frozen=True)
class Policy:
    """Scores a sample at each exit and lets it leave at the first that reaches.

    With an adjustment, both the scores and the answers are those of adjusted logits.
    A pytree, so it can be an argument of compiled functions.

    Attributes:
      scorer: Name in ``SCORERS``; static.
      params: The scorer's parameters: a flat dict of arrays, ``{}`` where it has none.
      thresholds: float32 ``[K]``: a sample leaves at exit k if its score is at least
        ``thresholds[k]``. +inf for an exit that nobody may take; the last is -inf.
      adjustment: Of the network's logits, or None.
    """

    scorer: str
    params: dict[str, Any]
    thresholds: jax.Array
    adjustment: adjust_lib.Adjustment | None = None

    @property
    def num_exits(self) -> int:
        """K."""
        return self.thresholds.shape[0]

    def init_trail(self, batch: int) -> Trail:
        """Returns the trail of ``batch`` samples that no exit has seen yet."""
        trail = SCORERS[self.scorer].init_trail(self.params, batch)
        if self.adjustment is None:
            return trail
        return {"total": self.adjustment.init_total(batch), "scorer": trail}

    def step(self, k: int, evidence: Evidence, trail: Trail) -> tuple[jax.Array, Trail]:
        """Scores the samples at exit ``k``.

        Args:
          k: Exit, 0-based.
          evidence: What the exit says of B samples.
          trail: What earlier exits left, leaves ``[B, ...]``.

        Returns:
          Scores ``[B]``, to be held against ``thresholds[k]``, and the new trail. Who
          is not asked at this exit scores -inf and keeps the trail.
        """
        if not self.skips:
            return self._step(k, evidence, trail)
        asked = self.asks(k, trail)
        score, new = self._step(k, evidence, trail)
        return jnp.where(asked, score, -jnp.inf), choose_rows(asked, new, trail)

    @property
    def skips(self) -> bool:
        """Whether the policy forecasts for each sample which exits to test."""
        return SCORERS[self.scorer].asks is not None

    def asks(self, k: int, trail: Trail) -> jax.Array:
        """Returns whom exit ``k`` is to test, bool ``[B]``, of a policy that skips."""
        own = trail if self.adjustment is None else trail["scorer"]
        all_leave = self.thresholds[k] == -jnp.inf
        return all_leave | SCORERS[self.scorer].asks(self.params, k, own)

    def _step(self, k: int, evidence: Evidence, trail: Trail):
        scorer = SCORERS[self.scorer]
        if self.adjustment is None:
            return scorer.step(self.params, k, evidence, trail)
        total = trail["total"]
        if self.adjustment.ensemble:  # later exits need these logits in any case
            adjusted, total = adjust_lib.adjust(
                self.adjustment, k, evidence.logits, total
            )
        else:
            adjusted = functools.partial(self._tempered, k, evidence)
        shown = dataclasses.replace(evidence, lazy_logits=adjusted)
        score, own = scorer.step(self.params, k, shown, trail["scorer"])
        return score, {"total": total, "scorer": own}

    def _tempered(self, k: int, evidence: Evidence) -> jax.Array:
        return adjust_lib.adjust(self.adjustment, k, evidence.logits, ())[0]

    @property
    def looks_back(self) -> bool:
        """Whether scores or answers need what all earlier exits said."""
        if self.skips:
            return False
        return bool(jax.tree.leaves(jax.eval_shape(lambda: self.init_trail(1))))

    @property
    def reads_logits(self) -> bool:
        """Whether scores need a head; gates on features do not."""
        return SCORERS[self.scorer].reads_logits

    def charges(
        self,
        costs: np.ndarray,
        head_costs: np.ndarray | None = None,
        gate_costs: np.ndarray | None = None,
        scores: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns what a sample costs that leaves at each exit.

        A head is run where somebody may leave, and everywhere if the policy looks back.
        Gates on features alone are run there instead (at an infinite threshold they
        need not be), and the head of the exit taken alone; others run beside heads.
        A policy that skips runs the heads of the exits that it asks for the sample.
        Scores cost nothing: C numbers are nothing against a stage.

        Args:
          costs: Cumulative cost up to each exit, all heads included, ``[K]``.
          head_costs: Of the heads alone, ``[K]``; None charges them all.
          gate_costs: Of the gates alone, ``[K]``; None: nothing.
          scores: Of N samples, ``[K, N]``, for a policy that skips; None charges every
            head, which no sample exceeds.

        Returns:
          float64 ``[K]``, or ``[K, N]`` of a policy that skips.
        """
        costs = np.asarray(costs, np.float64)
        if self.skips:
            if scores is None or head_costs is None:
                return costs
            skipped = np.where(scores > -np.inf, 0.0, np.asarray(head_costs)[:, None])
            return costs[:, None] - np.cumsum(skipped, axis=0)
        thresholds = np.asarray(self.thresholds)
        closed, gates = thresholds == np.inf, 0.0
        if SCORERS[self.scorer].reads_features and gate_costs is not None:
            gates = np.cumsum(np.where(np.isfinite(thresholds), gate_costs, 0.0))
        if head_costs is None or self.looks_back:
            return costs + gates
        idle = np.where(closed if self.reads_logits else True, head_costs, 0.0)
        # Who leaves at an exit runs its head.
        return costs + gates - (np.cumsum(idle) - idle)

    @property
    def num_classes(self) -> int | None:
        """Classes that it was fitted for, or None if any will do."""
        if self.scorer == "lagrangian":
            return self.params["bias"].shape[-1]
        if self.scorer in ("eenet", "eenet_linear"):
            return self.params["weights"].shape[-1] - 2 - self.num_exits
        return None if self.adjustment is None else self.adjustment.num_classes

    def check_for(self, split: Split, costs: np.ndarray) -> None:
        """Raises a UserError if the policy is for other exits or classes than these."""
        counts = {self.num_exits, len(split.logits), len(costs)}
        if len(counts) > 1:
            raise UserError(
                f"the policy has {self.num_exits} exits, the predictions "
                f"{len(split.logits)} and the costs {len(costs)}; fit the policy on "
                "predictions of this network"
            )
        num_classes = split.logits.shape[-1]
        if self.num_classes not in (None, num_classes):
            raise UserError(
                f"the policy was fitted for {self.num_classes} classes, the "
                f"predictions have {num_classes}; fit the policy on predictions of "
                "this network"
            )

    def output(self, k: int, logits: jax.Array, trail: Trail) -> jax.Array:
        """Returns the logits that exit ``k`` answers with.

        Args:
          k: Exit, 0-based.
          logits: The network's, ``[B, C]``.
          trail: As ``step`` takes it for this exit: what the exits before left.

        Returns:
          ``[B, C]``.
        """
        if self.adjustment is None:
            return logits
        return adjust_lib.adjust(self.adjustment, k, logits, trail["total"])[0]

    def outputs(self, logits: jax.Array) -> jax.Array:
        """Returns the logits that all exits answer with, ``[K, B, C]``, likewise."""
        return adjust_lib.adjust_all(self.adjustment, logits)

    def scores(
        self,
        logits: jax.Array,
        features: Sequence[jax.Array] | None = None,
        confidence: jax.Array | None = None,
    ) -> jax.Array:
        """Scores samples at all exits as if none left.

        Args:
          logits: ``[K, B, C]``.
          features: Of each exit ``[B, D_k]``, for gates that read them.
          confidence: Of maps, ``[K, B]`` (see ``evidence.pooled``).

        Returns:
          ``[K, B]``.
        """
        trail = self.init_trail(logits.shape[1])
        given = (*(features or ()), *(None,) * self.num_exits)
        sure = [None] * self.num_exits if confidence is None else confidence
        scores = []
        for k in range(self.num_exits):
            shown = Evidence(logits[k], given[k], sure[k])
            score, trail = self.step(k, shown, trail)
            scores.append(score)
        return jnp.stack(scores)

    def decide(self, logits: jax.Array) -> jax.Array:
        """Returns the exit each sample takes, int32 ``[B]``, from ``[K, B, C]``."""
        return first_exit(self.scores(logits), self.thresholds)


def choose_rows(wanted: jax.Array, new: Any, old: Any) -> Any:
    """Takes rows of two pytrees, the new where ``wanted`` ``[B]``, else the old."""

    def choose(one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(wanted.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    return jax.tree.map(choose, new, old)


def price_of(charges: np.ndarray, exit_index: np.ndarray) -> np.ndarray:
    """Returns what N samples cost at their exits, from ``Policy.charges``."""
    if charges.ndim == 1:
        return charges[exit_index]
    return charges[exit_index, np.arange(len(exit_index))]


def save_policy(path: str | pathlib.Path, policy: Policy) -> None:
    """Writes a policy to one ``.npz`` file, whole or not at all."""
    params = {f"params/{name}": np.asarray(v) for name, v in policy.params.items()}
    thresholds = np.asarray(policy.thresholds)
    arrays = {"scorer": policy.scorer, "thresholds": thresholds, **params}
    for name, value in adjust_lib.to_arrays(policy.adjustment).items():
        arrays[f"adjustment/{name}"] = value
    save_arrays(pathlib.Path(path), arrays)


def load_policy(path: str | pathlib.Path) -> Policy:
    """Reads a policy; no backbone is needed.

    Raises:
      UserError: If the file cannot be read or holds no policy.
    """
    arrays = load_arrays(pathlib.Path(path))
    missing = {"scorer", "thresholds"} - arrays.keys()
    if missing:
        raise UserError(f"{path} holds no policy: {sorted(missing)} missing")
    return Policy(
        known_scorer(path, arrays),
        group_of(arrays, "params"),
        arrays["thresholds"],
        adjust_lib.from_arrays(group_of(arrays, "adjustment")),
    )


def known_scorer(path: str | pathlib.Path, arrays: dict[str, np.ndarray]) -> str:
    """Returns the scorer that a policy or frontier file names.

    Raises:
      UserError: If this version has no such scorer.
    """
    scorer = str(arrays["scorer"])
    if scorer not in SCORERS:
        raise UserError(
            f"{path} was made with scorer {scorer!r}; this version knows "
            f"{sorted(SCORERS)}"
        )
    return scorer


def group_of(arrays: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    """Returns the entries ``GROUP/NAME`` of a saved file by NAME."""
    pairs = ((name.partition("/"), array) for name, array in arrays.items())
    return {name: array for (first, _, name), array in pairs if first == group}
