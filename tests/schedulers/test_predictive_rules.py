"""Predictive Exit's published rule: goldens of its forecast and its whole policy."""

import functools
import pathlib

import jax
import numpy as np
import pytest

from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.runtime.replay import simulate
from eenet_jax.schedulers import predictive
from eenet_jax.schedulers.policy import Policy

QUICK_COMPILES = True
GOLDENS = pathlib.Path(__file__).parent.parent / "goldens" / "predictive_exit.npz"
RUNS = {"vgg19_cifar10": 8, "vgg19_stl10": 5, "resnet34_cifar10": 8}


def _slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


ENGINES = ["vgg19", *_slow(["stl10", "resnet34", "resnet34_c100"])]


@pytest.fixture
def arrays(request):
    """Reads a file of ../shared/fixtures/predictive_exit; of some a part is kept."""

    def read(name: str, kept: bool) -> dict[str, np.ndarray]:
        prefix, path = f"{name}_", GOLDENS
        if not kept:
            shared = request.getfixturevalue("shared")
            prefix, path = "", shared / "fixtures" / "predictive_exit" / f"{name}.npz"
        with np.load(path) as file:
            keys = [key for key in file.files if key.startswith(prefix)]
            return {key.removeprefix(prefix): file[key] for key in keys}

    return read


@jax.jit
def _steps(logits, bounds, exits, rounds):
    def one(z, bound, k):
        strengths = predictive.forecast_strengths(z[None], predictive.MAX_ROUNDS)
        return predictive.next_exits(strengths, bound[None], k, rounds, True)[0, 0] - k

    return jax.vmap(one)(logits, bounds, exits)


@pytest.mark.parametrize("case", ENGINES)
def test_forecasts_are_the_published_ones(case, arrays):
    found = arrays("engine", kept=case == "vgg19")
    names = ("logits", "thresholds", "layer", "beta", "steps", "max_activation")
    logits, tau, layer, beta, steps, top = (found[f"{case}_{n}"] for n in names)
    bounds = (beta[:, None] * tau).astype(np.float32)
    ahead = _steps(logits, bounds, layer - 1, int(found[f"{case}_max_steps"]))
    np.testing.assert_array_equal(ahead, steps)
    np.testing.assert_array_equal(predictive.strength(logits), top)


def _policy(bounds, start, rounds=8, past_last=False):
    """The published policy for E bounds."""
    params = {"bounds": bounds, "rounds": np.int32(rounds)}
    params |= {"start": np.int32(start), "past_last": np.bool_(past_last)}
    return Policy("forecast_published", params, np.append(bounds, -np.inf))


@pytest.mark.parametrize("name", [*_slow(list(RUNS)[:2]), "resnet34_cifar10"])
def test_policies_run_as_published(name, arrays):
    golden = arrays(f"{name}_golden", kept=name.startswith("resnet"))
    betas = np.unique(golden["run_beta"])
    bounds = predictive.exit_bounds(golden["thresholds"], betas)
    # Start 1 has the published test of exit 1, with its missing bracket.
    starts = np.setdiff1d(golden["run_start"], [1])
    run = jax.jit(predictive.decide, static_argnames=("rounds", "past_last"))
    left, tested = run(
        golden["exit_logits"],
        np.repeat(bounds, len(starts), axis=0),
        predictive.check_starts(np.tile(starts, len(betas)), bounds.shape[1]),
        rounds=RUNS[name],
        past_last=name.startswith("resnet"),
    )
    rows = golden["run_start"] > 1
    beta = np.searchsorted(betas, golden["run_beta"][rows])
    pair = beta * len(starts) + np.searchsorted(starts, golden["run_start"][rows])
    found = np.asarray(left)[pair, golden["run_sample"][rows]]
    np.testing.assert_array_equal(found, golden["run_exit"][rows])
    assert rows.sum() >= 25
    end = np.append(golden["exit_logits"], golden["final_logits"][None], axis=0)
    for m in (0, len(left) - 1):
        bound, start = bounds[m // len(starts)], starts[m % len(starts)] - 1
        policy = _policy(bound, start, RUNS[name], name.startswith("resnet"))
        np.testing.assert_array_equal(jax.jit(Policy.decide)(policy, end), left[m])
    first = np.argmax(tested, axis=1)
    np.testing.assert_array_equal(first, np.broadcast_to(first[:, :1], first.shape))
    np.testing.assert_array_equal(first[: len(starts), 0], starts - 1)


def test_a_sample_pays_for_the_heads_that_it_tested():
    # Sums make a class that stands out by v 1, 3, 7, 19 v.
    z = np.zeros((3, 2, 5), np.float32)
    z[:, 0, 2] = [1, 0.5, 5]
    z[:, 1, 2] = [1, 1, 1]
    bounds = np.array([[2, 0.9, 4], [9, 9, 9]], np.float32)
    decide = jax.jit(predictive.decide, static_argnames="past_last")
    run = functools.partial(decide, z, bounds)
    left, tested = run(np.array([0, 0]))
    np.testing.assert_array_equal(left, [[2, 1], [3, 3]])
    expected = [[[1, 1], [1, 1], [1, 0]], [[1, 1], [0, 0], [1, 1]]]
    np.testing.assert_array_equal(tested, expected)
    split = Split(np.append(z, z[:1], axis=0), np.array([2, 0], np.int32))
    costs, heads = np.array([11.0, 22, 33, 44]), np.array([1.0, 1, 1, 4])
    predictions = Predictions(split, split, costs, head_costs=heads)
    # Networks of 10, 20, 30 and 37, and heads of 1 and 4.
    paid = np.array([[33, 22], [43, 43]])
    found = predictive.outcomes(left, tested, predictions)
    np.testing.assert_allclose(found, np.stack([[0.5] * 2, paid.mean(1)], axis=1))
    for m in range(2):
        replayed = simulate(_policy(bounds[m], 0), split, costs, heads)
        np.testing.assert_array_equal(replayed.exit_index, left[m])
        np.testing.assert_allclose(replayed.cost, paid[m])
    # From exit 0, four sums lead past the last exit; from exit 2 there is none.
    left, tested = run(np.array([2, 0]), past_last=True)
    np.testing.assert_array_equal(left, [[2, 3], [3, 3]])
    expected = [[[0, 0], [0, 0], [1, 1]], [[1, 1], [0, 0], [0, 0]]]
    np.testing.assert_array_equal(tested, expected)


def test_the_order_of_the_classes_changes_the_published_forecast():
    z = np.array([[1.0, 1, 0, 0], [1.0, 0, 0, 1]], np.float32)
    strengths = jax.jit(predictive.forecast_strengths, static_argnums=1)(z, 2)
    np.testing.assert_array_equal(strengths, [[2, 1], [5, 3]])
    bounds = np.full((1, 3), 1.5, np.float32)
    found = jax.jit(predictive.next_exits)(strengths, bounds, 0, 2, False)
    np.testing.assert_array_equal(found, [[1, 2]])


def test_scales_of_logits():
    z = np.array([[[1.0, -3.0], [2.0, 2.0]]])
    found = {
        kind: predictive.activation_means(z, kind)[0] for kind in predictive.ACTIVATIONS
    }
    assert found == {"mean_abs": 2, "mean_max": 2.5, "published": 0.5}


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"beta\[1\]=0 must be positive"):
        predictive.exit_bounds(np.ones(3), [6, 0])
    for tau in (0.0, np.nan):
        with pytest.raises(
            UserError, match=r"activation_mean\[2\].* heads are trained"
        ):
            predictive.exit_bounds([1.0, 1.0, tau], [6])
    for start in (0, 4):
        with pytest.raises(UserError, match=f"start={start} is no exit .* 1 to 3"):
            predictive.check_starts([1, start], 3)
    with pytest.raises(UserError, match="kind='max' is unknown"):
        predictive.activation_means(np.zeros((1, 1, 2)), "max")
