"""Optimal stopping by backward ridge regression, for many prices of cost at once.

For a price lambda, stopping at exit k is worth correct_k - lambda c_k, and going on
is worth what the best later stop gives. Backward over the exits, the advantage of
stopping,

    A_k(x) = E[(correct_k - lambda c_k) - V_{k+1} | x],
    V_k = correct_k - lambda c_k  where A_k >= 0, else V_{k+1},

is a ridge regression. The design is the same for every price, so one factorisation
serves all of them. Decisions that enter V come from folds that did not see the sample,
which keeps the advantage honest on small validation sets, and choose the strength of
the ridge.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eenet_jax.schedulers.confidence import Features, dense_design

# Of an intercept, the log-odds, other dense columns and those of classes. Strong ridges
# leave a rule that reads the log-odds.
RIDGES_OF_KINDS = (0.0, 0.01, 1.0, 1.0)


class Fits(NamedTuple):
    """Advantages for all prices.

    Attributes:
      params: ``weights``, ``bias`` and ``slope`` of ``confidence.advantage``, leaves
        ``[L, K-1, ...]``.
      crossed: Advantages of the samples, from the fit without their fold,
        ``[L, K-1, N]``.
    """

    params: dict[str, jax.Array]
    crossed: jax.Array


def fit(
    shared: Mapping[str, jax.Array],
    shown: Features,
    stop: jax.Array,
    member: jax.Array,
    strengths: jax.Array,
) -> Fits:
    """Fits the advantages, backward over the exits.

    Args:
      shared: The design's parameters (``confidence.design_params``).
      shown: What the exits but the last say of N samples.
      stop: correct - price * cost, ``[K, N, L]``.
      member: 1 where a sample is in a fold, ``[F, N]``.
      strengths: Ridges to choose from at each exit: of dense columns, and the factor on
        top of it for those of classes, ``[S, 2]``.
    """
    num_classes = shown.num_classes

    def at_exit(later, inputs):
        """From V of the next exit, ``[N, L]``, to this exit's V and weights."""
        k, x, answer, stop = inputs
        dense = dense_design(shared, k, x)
        of_class = jax.nn.one_hot(answer, num_classes)
        design = jnp.concatenate([dense, of_class, of_class * dense[:, 1:2]], axis=1)
        kinds = np.repeat(range(4), [1, 1, dense.shape[1] - 2, 2 * num_classes])
        fitted = _cross_fit(design, stop - later, kinds, member, strengths)
        return jnp.where(fitted[-1] >= 0, stop, later), fitted

    inputs = (jnp.arange(len(shown.x)), shown.x, shown.answers, stop[:-1])
    _, (weights, crossed) = jax.lax.scan(at_exit, stop[-1], inputs, reverse=True)
    split = [weights.shape[1] - 2 * num_classes, weights.shape[1] - num_classes]

    def named(weights: jax.Array) -> dict[str, Any]:
        parts = jnp.split(weights, split, axis=-1)
        return dict(zip(("weights", "bias", "slope"), parts, strict=True))

    return Fits(
        named(jnp.transpose(weights, (2, 0, 1))),  # [K-1, W, L] -> [L, K-1, W]
        jnp.transpose(crossed, (2, 0, 1)),  # [K-1, N, L]
    )


def _cross_fit(design, target, kinds, member, strengths):
    """Ridge regression with its strength chosen by the decisions it leads to.

    Args:
      design: ``[N, W]``.
      target: Stop value less the value of going on, ``[N, L]``.
      kinds: Of the columns, see ``RIDGES_OF_KINDS``, ``[W]``.
      member: ``[F, N]``.
      strengths: ``[S, 2]``.

    Returns:
      Weights from all samples ``[W, L]``, and predictions ``[N, L]`` for each sample
      from the folds without it.
    """
    grams = jnp.einsum("fn,nv,nw->fvw", member, design, design)
    moments = jnp.einsum("fn,nw,nl->fwl", member, design, target)
    gram, moment = grams.sum(axis=0), moments.sum(axis=0)

    def solve(gram, moment, penalty):
        factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(penalty))
        return jax.scipy.linalg.cho_solve(factor, moment)

    def penalty_of(strength):
        penalty = strength[0] * jnp.array(RIDGES_OF_KINDS) + 1e-3
        return penalty.at[-1].mul(strength[1])[kinds]

    def without_folds(strength):
        penalty = penalty_of(strength)
        return sum(
            inside[:, None] * (design @ solve(gram - g, moment - m, penalty))
            for inside, g, m in zip(member, grams, moments, strict=True)
        )

    crossed = jax.lax.map(without_folds, strengths)  # [S, N, L]
    # What the decisions gain over always going on, over all prices.
    gains = jnp.where(crossed >= 0, target[None], 0.0).mean(axis=2) @ member.T
    total = gains.sum(axis=1, keepdims=True)
    # A fold has no say in the strength that its samples are judged with.
    of_fold = jnp.argmax(total - gains, axis=0)  # [F]
    crossed = crossed[of_fold @ member.astype(int), jnp.arange(len(target))]
    best = jnp.argmax(total)
    return solve(gram, moment, penalty_of(strengths[best])), crossed
