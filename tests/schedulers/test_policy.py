"""The policy: pure, the same under jit, and the same from its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.errors import UserError
from eenet_jax.schedulers import Policy, load_policy, save_policy
from eenet_jax.schedulers.evidence import Evidence, entropy_confidence, max_prob
from eenet_jax.schedulers.scorers import SCORERS, linear_inputs

K, B, C = 3, 40, 4
CHAINS = ["max_prob", "entropy", "patience", "eenet_linear", "eenet"]
decide, scores_of = jax.jit(Policy.decide), jax.jit(Policy.scores)


def logits(seed: int = 0) -> np.ndarray:
    """Logits of all exits, ``[K, B, C]``."""
    rng = np.random.default_rng(seed)
    return (2 * rng.normal(size=(K, B, C))).astype(np.float32)


def make_policy(scorer: str) -> Policy:
    """A policy whose thresholds send some samples to each exit."""
    params = {}
    if scorer in ("eenet_linear", "eenet"):
        rng = np.random.default_rng(1)
        weights = 0.3 * rng.normal(size=(K, C + 2 + K))
        weights[:, C] += 1
        params = {"weights": weights.astype(np.float32), "bias": np.ones(K, np.float32)}
    policy = Policy(scorer, params, np.zeros(K, np.float32))
    scores = np.asarray(scores_of(policy, logits()))
    thresholds = np.append(np.quantile(scores[:-1], 0.6, axis=1), -np.inf)
    if scorer == "patience":
        thresholds = np.array([2, 2, -np.inf])
    return Policy(scorer, params, thresholds.astype(np.float32))


@pytest.fixture(params=CHAINS, scope="module")
def policy(request) -> Policy:
    """One policy of each scorer that is made without a fit."""
    return make_policy(request.param)


def test_every_exit_is_used(policy) -> None:
    exits = decide(policy, logits())
    assert exits.dtype == jnp.int32
    assert len(np.unique(exits)) >= 2


def test_round_trip(policy, tmp_path) -> None:
    save_policy(tmp_path / "new" / "policy.npz", policy)
    loaded = load_policy(tmp_path / "new" / "policy.npz")
    assert (
        loaded.scorer == policy.scorer and loaded.params.keys() == policy.params.keys()
    )
    np.testing.assert_array_equal(loaded.thresholds, policy.thresholds)
    np.testing.assert_array_equal(decide(loaded, logits(5)), decide(policy, logits(5)))


def test_permuting_samples_permutes_decisions(policy) -> None:
    order = np.random.default_rng(2).permutation(B)
    permuted = decide(policy, logits()[:, order])
    np.testing.assert_array_equal(permuted, decide(policy, logits())[order])


@pytest.mark.parametrize("scorer", ["patience", "eenet"])
def test_jit_changes_nothing(scorer) -> None:
    policy = make_policy(scorer)
    np.testing.assert_array_equal(decide(policy, logits()), policy.decide(logits()))


def test_samples_do_not_see_each_other(policy) -> None:
    whole = scores_of(policy, logits())
    changed = logits(9)
    changed[:, 7:12] = logits()[:, 7:12]
    part = scores_of(policy, changed)[:, 7:12]
    np.testing.assert_array_equal(part, whole[:, 7:12])


def test_later_exits_change_no_earlier_score(policy) -> None:
    changed = logits()
    changed[-1] = logits(9)[-1]
    one, other = (scores_of(policy, x) for x in (logits(), changed))
    np.testing.assert_array_equal(one[:-1], other[:-1])


def test_trail_keeps_shape_and_batch_axis(policy) -> None:
    trail = jax.eval_shape(lambda: policy.init_trail(B))
    for k in range(K):

        def step(x, trail, k=k):
            return policy.step(k, Evidence(x), trail)

        score, following = jax.eval_shape(step, logits()[k], trail)
        assert score.shape == (B,) and score.dtype == jnp.float32
        assert following == trail  # shapes and types
        assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(following))


def test_finite_scores_at_saturated_logits(policy) -> None:
    scores = scores_of(policy, 1e3 * logits())
    assert jnp.isfinite(scores).all()


def test_scores_are_what_their_names_say() -> None:
    x = jnp.asarray(logits())
    for name, function in {"max_prob": max_prob, "entropy": entropy_confidence}.items():
        scores = scores_of(make_policy(name), x)
        np.testing.assert_allclose(scores, jax.jit(function)(x), rtol=1e-6)


def test_linear_scores_by_the_formula() -> None:
    policy = make_policy("eenet_linear")
    weights, bias = policy.params["weights"], policy.params["bias"]
    inputs = np.asarray(linear_inputs(jnp.asarray(logits())))  # [K, B, C + 2]
    wanted = np.zeros((K, B))
    for k in range(K):
        wanted[k] = inputs[k] @ weights[k, : C + 2] + bias[k]
        for j in range(k):
            wanted[k] += weights[k, C + 2 + j] * wanted[j]
    np.testing.assert_allclose(
        scores_of(policy, logits()), wanted, rtol=1e-4, atol=1e-5
    )


def test_is_a_pytree_with_a_static_scorer() -> None:
    policy = make_policy("eenet")
    leaves, tree = jax.tree.flatten(policy)
    assert len(leaves) == 3
    assert jax.tree.unflatten(tree, leaves).scorer == "eenet"


def test_file_that_holds_no_policy(tmp_path) -> None:
    np.savez(tmp_path / "other.npz", costs=np.ones(3), thresholds=np.ones(3))
    with pytest.raises(UserError, match=r"other.npz holds no policy: \['scorer'\]"):
        load_policy(tmp_path / "other.npz")
    with pytest.raises(UserError, match="none.npz is not there"):
        load_policy(tmp_path / "none.npz")


def test_unknown_scorer(tmp_path) -> None:
    path = tmp_path / "policy.npz"
    save_policy(path, Policy("of tomorrow", {}, np.zeros(3, np.float32)))
    with pytest.raises(UserError, match="scorer 'of tomorrow'; this version knows"):
        load_policy(path)
    assert all(name in SCORERS for name in CHAINS)
