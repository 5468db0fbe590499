"""Gates on confidence features, by gradient on E[correct] - price * E[cost] itself.

The gate of exit k is sigmoid(A_k(x) / width) with A_k of the same form as the advantage
of optimal stopping (``confidence.advantage``), so that gates and advantages, and any
mean of their parameters, are one kind of policy. Gates start as thresholds on the
log-odds of the answer and are pulled back there by an L2 penalty.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from eenet_jax.schedulers.expectations import expected, log_exit_distribution

LOG_ODDS = 0.2  # slope of the start


def log_odds_start(
    params: Mapping[str, jax.Array],
    odds: jax.Array,
    stop: jax.Array,
    weights: jax.Array,
) -> dict[str, jax.Array]:
    """Returns gates that read the log-odds only, at their best thresholds.

    Backward over the exits, each threshold maximises what is gained by stopping above
    it rather than going on.

    Args:
      params: Of the shapes wanted, leaves ``[L, K-1, ...]``.
      odds: Log-odds of the answers, standardised, ``[K-1, N]``.
      stop: correct - price * cost, ``[K, N, L]``.
      weights: Of the samples, ``[N]``.
    """

    def at_exit(later, inputs):
        odds, stop = inputs
        order = jnp.argsort(-odds)
        gain = jnp.cumsum((weights[:, None] * (stop - later))[order], axis=0)  # [N, L]
        ranked = odds[order]
        can_cut = ranked > jnp.append(ranked[1:], -jnp.inf)  # not between equals
        gain = jnp.where(can_cut[:, None], gain, -jnp.inf)
        cuts = (ranked + jnp.append(ranked[1:], ranked[-1] - 1.0)) / 2
        best = jnp.argmax(gain, axis=0)
        some = jnp.max(gain, axis=0) > 0
        threshold = jnp.where(some, cuts[best], ranked[0] + 1.0)
        taken = odds[:, None] >= threshold[None]
        return jnp.where(taken, stop, later), threshold

    _, thresholds = jax.lax.scan(at_exit, stop[-1], (odds, stop[:-1]), reverse=True)
    start = jax.tree.map(jnp.zeros_like, dict(params))
    start["weights"] = start["weights"].at[..., 1].set(LOG_ODDS)
    start["weights"] = start["weights"].at[..., 0].set(-LOG_ODDS * thresholds.T)
    return start


def scores(
    params: Mapping[str, jax.Array], dense: jax.Array, answers: jax.Array
) -> jax.Array:
    """Returns A ``[K-1, B]`` from a design ``[K-1, B, W]`` and answers ``[K-1, B]``."""
    at_exit = jax.vmap(lambda row, answer: row[answer])
    of_class = at_exit(params["bias"], answers)
    of_class = of_class + at_exit(params["slope"], answers) * dense[..., 1]
    return jnp.einsum("kbw,kw->kb", dense, params["weights"]) + of_class


def fit(
    start: Mapping[str, jax.Array],
    price: jax.Array,
    *,
    data: tuple[jax.Array, jax.Array, jax.Array],
    costs: jax.Array,
    width: float,
    decay: float,
    class_decay: float,
    batches: jax.Array,
    learning_rate: float,
) -> dict[str, jax.Array]:
    """Fits the gates for one price.

    Args:
      start: ``weights`` ``[K-1, W]``, ``bias`` and ``slope`` ``[K-1, C]``.
      price: Of cost, on the scale of ``costs``.
      data: The design ``[K-1, N, W]``, answers ``[K-1, N]``, correct ``[K, N]``.
      costs: ``[K]``, from 0 to 1.
      width: Advantages below this in size are undecided.
      decay: L2 on the distance from the start, intercepts excepted.
      class_decay: Likewise, of the weights of classes.
      batches: Rows of samples, ``[steps, B]``.
      learning_rate: Of Adam, in widths; peak of a cosine.
    """
    dense, answers, correct = data
    schedule = optax.cosine_decay_schedule(learning_rate, len(batches))
    tx = optax.scale_by_adam()

    def loss(params, rows):
        gates = scores(params, dense[:, rows], answers[:, rows]) / width
        exits = jnp.exp(log_exit_distribution(gates))
        gain = expected(exits, correct[:, rows] - price * costs[:, None])
        moved = jax.tree.map(jnp.subtract, params, dict(start))
        of_dense = jnp.sum(moved["weights"][:, 1:] ** 2)
        of_class = jnp.sum(moved["bias"] ** 2) + jnp.sum(moved["slope"] ** 2)
        return decay * of_dense + class_decay * of_class - gain

    def step(carry, rows):
        params, state, t = carry
        updates, state = tx.update(jax.grad(loss)(params, rows), state)
        rate = -schedule(t) * width
        params = jax.tree.map(lambda p, u: p + rate * u, params, updates)
        return (params, state, t + 1), None

    (params, _, _), _ = jax.lax.scan(
        step, (dict(start), tx.init(dict(start)), 0), batches
    )
    return params
