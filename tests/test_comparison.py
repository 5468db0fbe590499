"""The comparison at equal cost: reading off, paired bootstrap, groups, JSON."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from eenet_jax import errors
from eenet_jax.comparison import GRID_SIZE, compare, interpolate, random_mixture

COSTS = np.array([1.0, 2.0, 4.0])
KINDS = ("points", "points_mean", "grid", "grid_mean")


def make_correct(seed: int, num_samples: int) -> np.ndarray:
    """Three exits, each later one right more often, ``[K, N]``."""
    hard = np.random.default_rng(seed).uniform(size=num_samples)
    return hard < np.array([[0.5], [0.65], [0.8]])


def random_exits(seed: int, num_samples: int, num_budgets: int = 5) -> np.ndarray:
    """Exits drawn without a look at the sample, ``[1, Q, N]``."""
    rng = np.random.default_rng(seed)
    later = np.linspace(0, 1, num_budgets)[:, None]
    return 2 * (rng.uniform(size=(1, num_budgets, num_samples)) < later)


def good_exits(correct: np.ndarray, num_budgets: int = 5) -> np.ndarray:
    """Sends on only samples that the first exit gets wrong, ``[1, Q, N]``."""
    wrong = np.cumsum(~correct[0]) / (~correct[0]).sum()
    later = np.linspace(0, 1, num_budgets)[:, None]
    return 2 * (~correct[0] & (wrong <= later))[None]


def test_interpolation_is_numpys() -> None:
    rng = np.random.default_rng(0)
    cost, accuracy = rng.uniform(size=(2, 7, 5))
    at = np.linspace(-0.2, 1.2, 30)
    expected = []
    for c, a in zip(cost, accuracy, strict=True):
        order = np.argsort(c)
        expected.append(np.interp(at, c[order], a[order]))
    np.testing.assert_allclose(interpolate(at, cost, accuracy), expected, atol=1e-12)


def test_interpolation_with_points_of_equal_cost() -> None:
    cost = np.array([[2.0, 1.0, 2.0, 1.0, 3.0]])
    accuracy = np.array([[0.5, 0.2, 0.6, 0.3, 0.7]])
    found = interpolate(np.array([0.0, 1.0, 1.5, 2.0, 2.5, 9.0]), cost, accuracy)
    np.testing.assert_allclose(found, [[0.3, 0.3, 0.4, 0.6, 0.65, 0.7]])


def test_accuracies_by_hand() -> None:
    """Two policies at costs 2 and 4; the curve starts where all stop at exit 1."""
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]], bool)
    exits = np.array([[[1, 1, 1, 1], [2, 2, 2, 2]]])
    found = compare({"one": exits}, correct, COSTS, replicates=10)
    assert found["costs"]["points"] == pytest.approx([1.75, 2.5, 3.25])
    expected = [0.25 + 0.75 * 0.25, 0.5 + 0.25 / 4, 0.5 + 0.25 * 1.25 / 2]
    points = found["schedulers"]["one"]["points"]
    assert points["accuracy"] == pytest.approx(expected)
    mean = found["schedulers"]["one"]["points_mean"]["accuracy"]
    assert mean == pytest.approx(np.mean(expected))
    grid = found["schedulers"]["one"]["grid"]
    assert len(grid["accuracy"]) == len(found["costs"]["grid"]) == GRID_SIZE
    assert grid["accuracy"][0] == 0.25 and grid["accuracy"][-1] == 0.75


def test_grid_ends_where_all_reach_and_points_lie_within_the_budgets() -> None:
    correct = make_correct(0, 40)
    low = np.ones((1, 1, 40), int)  # a cost of 2, where the other reaches 4
    found = compare({"low": low, "all": 2 * low}, correct, COSTS, limit=3.0)
    assert found["costs"]["grid"][0] == 1 and found["costs"]["grid"][-1] == 2
    assert found["costs"]["points"] == pytest.approx([1.5, 2.0, 2.5])
    beyond = found["schedulers"]["low"]["points"]["accuracy"][1:]
    assert beyond == pytest.approx([correct[1].mean()] * 2)  # flat
    stuck = compare({"none": 0 * low, "all": 2 * low}, correct, COSTS)
    assert stuck["costs"]["grid"][-1] == 4  # one that never leaves shrinks no grid


def test_identical_schedulers_do_not_differ() -> None:
    correct = make_correct(1, 500)
    exits = random_exits(1, 500)
    found = compare({"a": exits, "b": exits.copy()}, correct, COSTS, replicates=50)
    for kind in KINDS:
        summary = found["schedulers"]["b"][kind]
        assert not np.any(summary["difference"]) and not np.any(summary["interval"])


def test_a_better_scheduler_is_above_zero() -> None:
    correct = make_correct(2, 800)
    exits = {"blind": random_exits(2, 800), "good": good_exits(correct)}
    found = compare(exits, correct, COSTS)
    assert found["reference"] == "blind"
    for kind in KINDS[:2]:
        summary = found["schedulers"]["good"][kind]
        intervals = np.reshape(summary["interval"], (-1, 2))
        assert (intervals[:, 0] > 0).all()
        difference = np.atleast_1d(summary["difference"])
        assert (intervals[:, 0] < difference).all()
        assert (difference < intervals[:, 1]).all()
    renamed = {"blind": exits["blind"], "maxprob_opt": exits["good"]}
    found = compare(renamed, correct, COSTS, replicates=100)
    assert found["reference"] == "maxprob_opt"
    assert found["schedulers"]["blind"]["points_mean"]["interval"][1] < 0


def test_seeds_give_mean_and_spread() -> None:
    correct = make_correct(3, 300)
    good, blind = good_exits(correct), random_exits(3, 300)
    single = {
        name: compare({"x": e}, correct, COSTS, replicates=5)["schedulers"]["x"]
        for name, e in (("good", good), ("blind", blind))
    }
    both = {"x": np.concatenate([good, blind]), "y": good}
    found = compare(both, correct, COSTS, replicates=5)
    assert found["seeds"] == 2
    summary = found["schedulers"]["x"]["points"]
    low, high = (np.array(single[n]["points"]["accuracy"]) for n in ("blind", "good"))
    np.testing.assert_allclose(summary["accuracy"], (low + high) / 2)
    np.testing.assert_allclose(summary["lowest"], low)
    np.testing.assert_allclose(summary["highest"], high)


def test_interval_covers_the_truth() -> None:
    """Two schedulers of fixed cost, right with probabilities 0.7 and 0.6."""
    rng = np.random.default_rng(4)
    exits = {"a": np.ones((1, 1, 200), int), "b": np.full((1, 1, 200), 2)}
    costs = np.array([1.0, 1.0, 1.0])  # equal cost: the difference is of proportions
    covered = 0
    for trial in range(200):
        correct = rng.uniform(size=(3, 200)) < np.array([[0.0], [0.6], [0.7]])
        found = compare(exits, correct, costs, replicates=200, seed=trial)
        low, high = found["schedulers"]["b"]["points_mean"]["interval"]
        covered += low <= 0.1 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("copies", [4, 7])
def test_copies_resampled_together_say_nothing_new(copies) -> None:
    correct = make_correct(5, 300)
    exits = {"blind": random_exits(5, 300), "good": good_exits(correct)}
    wide = {name: np.repeat(e, copies, axis=-1) for name, e in exits.items()}
    rows = np.repeat(correct, copies, axis=-1)

    def width(exits, correct, group_size=1):
        found = compare(exits, correct, COSTS, group_size=group_size)
        low, high = found["schedulers"]["good"]["points_mean"]["interval"]
        return high - low

    once, together = width(exits, correct), width(wide, rows, copies)
    assert together == pytest.approx(once)
    assert width(wide, rows) == pytest.approx(once / np.sqrt(copies), rel=0.15)


def test_last_group_may_be_smaller() -> None:
    correct = make_correct(6, 103)
    exits = {"blind": random_exits(6, 103), "good": good_exits(correct)}
    found = compare(exits, correct, COSTS, group_size=10, replicates=50)
    ungrouped = compare(exits, correct, COSTS, replicates=50)
    for name in exits:  # the data's own values do not depend on the groups
        pair = (part["schedulers"][name]["grid"] for part in (found, ungrouped))
        first, second = (summary["accuracy"] for summary in pair)
        np.testing.assert_allclose(first, second)


def test_everything_is_json_and_nothing_without_schedulers() -> None:
    correct = make_correct(7, 60)
    small = random_exits(7, 60).astype(np.uint8)
    found = compare({"a": small, "b": small[:, :1]}, correct, COSTS, replicates=20)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert compare({}, correct, COSTS) == {}


def test_random_mixture_by_hand() -> None:
    accuracy, costs = [0.6, 0.62, 0.8, 0.7], [1.0, 2.0, 4.0, 5.0]
    found = random_mixture(accuracy, costs, [0.5, 1, 2, 3, 4, 9])
    expected = [np.nan, 0.6, 0.6 + 0.2 / 3, 0.6 + 0.4 / 3, 0.8, 0.8]
    np.testing.assert_allclose(found, expected)
    same = random_mixture([0.5, 0.7], [2.0, 2.0], [2.0])  # a later exit for nothing
    np.testing.assert_allclose(same, [0.7])


@pytest.fixture
def run(root, tmp_path, monkeypatch, capsys):
    """Runs evaluate.py on a small file with flags; returns status, stdout, stderr."""
    rng = np.random.default_rng(8)
    arrays = {"costs": COSTS}
    for part in ("val", "test"):
        labels = rng.integers(0, 3, 90)
        logits = rng.normal(size=(3, 90, 3))
        logits[:, np.arange(90), labels] += [[1.0], [2.0], [3.0]]
        arrays |= {f"{part}_logits": logits, f"{part}_labels": labels}
    np.savez(tmp_path / "some.npz", **arrays)
    spec = importlib.util.spec_from_file_location("evaluate", root / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    before = set(flags.FLAGS)
    spec.loader.exec_module(module)

    def run(*given: str) -> tuple[int, str, str]:
        argv = ["evaluate.py", f"--predictions={tmp_path / 'some.npz'}", *given]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
            errors.run(module.main)
        return stopped.value.code or 0, *capsys.readouterr()

    yield run
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


@pytest.mark.slow
def test_command_with_two_seeds(run, tmp_path) -> None:
    names = ["msdnet", "maxprob_opt"]
    status, out, err = run("--seeds=2", f"--scheduler={','.join(names)}")
    assert status == 0, err
    assert "msdnet, seed 1: fitted in" in err
    assert "mean of 2 fits" in out and "less maxprob_opt [95 %]" in out
    output = tmp_path / "some_eval"
    results = json.loads((output / "results.json").read_text())
    assert len(results["records"]) == 2 * 20
    assert results["comparison"]["seeds"] == 2
    found = results["comparison"]["schedulers"]
    assert list(found) == names
    for summary in (found[name]["points_mean"] for name in names):
        assert summary["lowest"] <= summary["accuracy"] <= summary["highest"]
    assert (output / "policies" / "msdnet_seed1.npz").exists()
    assert (output / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--max_drop=0.1", "--seeds=2 cannot be given with --max_drop"),
        ("--policy=x.npz", "--seeds=2 cannot be given with --policy"),
    ],
)
def test_seeds_where_nothing_is_compared(run, flag, message) -> None:
    status, out, err = run("--seeds=2", flag)
    assert status == 1 and out == "" and message in err
    status, _, err = run("--seeds=0")
    assert status == 1 and "--seeds=0" in err


def test_policies_are_compared_at_what_they_are_charged() -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((3, 400)) < np.array([0.5, 0.7, 0.9])[:, None]
    exits = np.stack([rng.choice([0, 2], 400, p=[1 - p, p]) for p in (0.3, 0.8)])[None]
    cheaper = COSTS - np.array([0.0, 0.0, 0.4])
    spent = {"idle": cheaper[exits], "all": COSTS[exits]}
    found = compare(
        {"idle": exits, "all": exits}, correct, COSTS, spent=spent, replicates=5
    )
    at = np.array(found["costs"]["points"])
    right = np.take_along_axis(correct, exits[0], 0).mean(1)
    right = np.append(correct[0].mean(), right)
    for name, costs in (("idle", cheaper), ("all", COSTS)):
        spent = np.append(COSTS[0], costs[exits[0]].mean(1))
        expected = np.interp(at, spent, right)
        accuracy = found["schedulers"][name]["points"]["accuracy"]
        np.testing.assert_allclose(accuracy, expected, rtol=1e-5)
    assert found["costs"]["grid"][-1] == pytest.approx(cheaper[exits[0][1]].mean())
