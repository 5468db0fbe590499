"""How policies score a sample at an exit: pure functions, listed in ``SCORERS``.

A scorer may carry a trail from exit to exit, a pytree of fixed shape whose leaves have
the batch as leading axis, so that it can be packed like a backbone's carry.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eenet_jax.schedulers import confidence, feature_gates, forecasts
from eenet_jax.schedulers.evidence import (
    Evidence,
    entropy_confidence,
    log_odds,
    max_prob,
)

Trail = Any


class Scorer(NamedTuple):
    """``init_trail(params, B) -> trail``, ``step(params, k, evidence, trail)``.

    The step returns the score of exit k, float32 ``[B]``, and the new trail. One that
    does not read logits (but features, at all exits but the last) can do without them.
    One that forecasts which exits are worth testing says with ``asks(params, k, trail)
    -> bool [B]`` whom exit k is to test; its steps see no others, and all at the last.
    """

    init_trail: Callable[[Any, int], Trail]
    step: Callable[[Any, int, Evidence, Trail], tuple[jax.Array, Trail]]
    reads_logits: bool = True
    reads_features: bool = False
    asks: Callable[[Any, int, Trail], jax.Array] | None = None


def _no_trail(params: Any, batch: int) -> Trail:
    del params, batch
    return ()


def _max_prob(params, k, evidence, trail):
    del params, k
    return max_prob(evidence.logits, evidence.confidence), trail


def _entropy(params, k, evidence, trail):
    del params, k
    return entropy_confidence(evidence.logits), trail


def _no_answers(params, batch):
    del params
    nothing = jnp.full(batch, -1, jnp.int32), jnp.zeros(batch, jnp.float32)
    return dict(zip(("answer", "run"), nothing, strict=True))


def _patience(params, k, evidence, trail):
    """Scores by the number of equal answers in a row, this one included."""
    del params, k
    answer = jnp.argmax(evidence.logits, axis=-1).astype(jnp.int32)
    run = jnp.where(answer == trail["answer"], trail["run"] + 1, 1.0)
    return run, {"answer": answer, "run": run}


def linear_inputs(logits: jax.Array, confidence: jax.Array | None = None) -> jax.Array:
    """Returns EENet's inputs [p ; max p ; 1 + sum p log p / log C].

    Args:
      logits: ``[..., C]``.
      confidence: Of maps, in place of max p, ``[...]``.

    Returns:
      ``[..., C + 2]``. The scores of earlier exits come behind them in the weights.
    """
    return _inputs(logits, max_prob(logits, confidence))


def logit_inputs(logits: jax.Array, confidence: jax.Array | None = None) -> jax.Array:
    """Like ``linear_inputs``, with the log-odds of max p, divided by 4, for max p.

    The division brings them to the size of the other inputs.
    """
    return _inputs(logits, log_odds(logits, confidence) / 4)


def _inputs(logits: jax.Array, confidence: jax.Array) -> jax.Array:
    parts = [confidence[..., None], entropy_confidence(logits)[..., None]]
    return jnp.concatenate([jax.nn.softmax(logits), *parts], axis=-1)


def affine(
    inputs: jax.Array, past: jax.Array, weights: jax.Array, bias: jax.Array
) -> jax.Array:
    """Returns w . [inputs ; past] + b.

    Under vmap over weights, the product with the inputs, which are the same for all,
    stays one matrix product; the few past scores are multiplied element by element.

    Args:
      inputs: ``[B, D]``.
      past: Scores of the exits before, 0 for the others, ``[B, K]``.
      weights: ``[D + K]``, or ``[H, D + K]`` for H outputs.
      bias: ``[]`` or ``[H]``.
    """
    size = inputs.shape[-1]
    out = inputs @ weights[..., :size].T
    for j in range(past.shape[-1]):
        factor = weights[..., size + j]
        out = out + past[:, j].reshape((-1,) + (1,) * factor.ndim) * factor[None]
    return out + bias[None]


def _past_scores(params, batch):
    num_exits = params["weights"].shape[0]
    return jnp.zeros((batch, num_exits), jnp.float32)


def _linear(inputs):
    """Scores linear in the inputs and the past scores, which the trail keeps raw."""

    def step(params, k, evidence, trail):
        x = inputs(evidence.logits, evidence.confidence)
        score = affine(x, trail, params["weights"][k], params["bias"][k])
        return score, trail.at[:, k].set(score)

    return Scorer(_past_scores, step)


def _advantage_trail(params, batch):
    num_exits, num_classes = params["bias"].shape[0] + 1, params["bias"].shape[1]
    return confidence.init_trail(batch, num_exits, num_classes)


def _advantage(params, k, evidence, trail):
    x, answer, trail = confidence.features(
        k, evidence.logits, trail, evidence.confidence
    )
    if k == params["bias"].shape[0]:  # the last exit takes all that is left
        return jnp.zeros(len(answer)), trail
    return confidence.advantage(params, k, x, answer), trail


def _gate(kind, combined):
    """Scores by a gate on the exit's features, and what the exit says if combined."""

    def step(params, k, evidence, trail):
        if k == params["bias"].shape[0]:  # the last exit takes all that is left
            return jnp.zeros(len(evidence.logits)), trail
        x = feature_gates.gate_inputs(kind, evidence.features)
        if combined:
            said = confidence.own_features(evidence.logits, evidence.confidence)
            x = jnp.concatenate([x, said], axis=1)
        return feature_gates.gate_score(params, k, x), trail

    return Scorer(_no_trail, step, reads_logits=combined, reads_features=True)


def _forecasting(rule):
    """Scores and forecasts by one of the rules in ``forecasts``."""

    def step(params, k, evidence, trail):
        return rule(params, k, evidence.logits, trail)

    return Scorer(forecasts.init_trail, step, asks=forecasts.asks)


SCORERS = {
    "max_prob": Scorer(_no_trail, _max_prob),
    "entropy": Scorer(_no_trail, _entropy),
    "patience": Scorer(_no_answers, _patience),
    "eenet_linear": _linear(linear_inputs),
    "eenet": _linear(logit_inputs),
    "lagrangian": Scorer(_advantage_trail, _advantage),
    "forecast_fixed": _forecasting(forecasts.fixed),
    "forecast_published": _forecasting(forecasts.published),
    "forecast_learned": _forecasting(forecasts.learned),
    **{f"gate_{kind}": _gate(kind, False) for kind in feature_gates.INPUTS},
    **{f"combined_{kind}": _gate(kind, True) for kind in feature_gates.INPUTS},
}
