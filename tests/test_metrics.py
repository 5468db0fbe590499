"""Measures of scores and classes: hand-worked cases, ties, and one-sided samples."""

import itertools
import json

import numpy as np
import pytest

from eenet_jax import metrics


def test_calibration_error_by_hand() -> None:
    probability = [0.05, 0.1, 0.75, 0.9]  # two bins; 0.1 is far from either edge
    correct = [0, 1, 1, 1]
    # first: share 0.5, mean 0.075, weight 1/2; second: share 1, mean 0.825, weight 1/2
    expected = 0.5 * (0.5 - 0.075) + 0.5 * (1 - 0.825)
    found = metrics.calibration_error(probability, correct, num_bins=2)
    assert found == pytest.approx(expected)


def test_calibration_error_at_the_edges_of_bins() -> None:
    assert metrics.calibration_error([0.0, 1.0], [0, 1]) == 0.0
    assert metrics.calibration_error([0.0, 1.0], [1, 0]) == 1.0
    # 0.5 belongs to the lower of two bins, where it offsets the sample at 0.3
    found = metrics.calibration_error([0.5, 0.3], [1, 0], num_bins=2)
    assert found == pytest.approx(abs((1 - 0.5) + (0 - 0.3)) / 2)


def test_calibrated_samples_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(size=100_000)
    correct = rng.uniform(size=100_000) < probability
    assert metrics.calibration_error(probability, correct) < 0.01
    overconfident = metrics.calibration_error(np.sqrt(probability), correct)
    assert overconfident == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


def test_aurc_by_hand() -> None:
    scores = np.array([0.9, 0.1, 0.7, 0.4])
    correct = np.array([1, 0, 0, 1])
    assert metrics.aurc(scores, correct) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 2) / 4
    )


def test_aurc_with_ties_is_the_mean_over_their_orders() -> None:
    correct = np.array([1, 1, 0, 0, 1])
    scores = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    orders = [
        metrics.aurc(scores + 0.01 * np.array([0, *order, 0]), correct)
        for order in itertools.permutations(range(3))
    ]
    assert metrics.aurc(scores, correct) == pytest.approx(np.mean(orders))


def test_one_sided_samples() -> None:
    scores = np.array([0.3, 0.2, 0.9])
    assert metrics.aurc(scores, np.ones(3)) == 0.0
    assert metrics.aurc(scores, np.zeros(3)) == 1.0
    assert np.isnan(metrics.failure_auroc(scores, np.ones(3)))
    assert np.isnan(metrics.failure_auroc(scores, np.zeros(3)))


def scored(levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of so many levels, and answers that go with them."""
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=400) / levels
    return scores, rng.uniform(size=400) < 0.3 + 0.5 * scores


@pytest.mark.parametrize("levels", [3, 1000])
def test_failure_auroc_counts_pairs(levels) -> None:
    scores, correct = scored(levels)
    apart = scores[correct][:, None] - scores[~correct]
    expected = np.mean((apart > 0) + 0.5 * (apart == 0))
    assert metrics.failure_auroc(scores, correct) == pytest.approx(expected)


@pytest.mark.parametrize("levels", [3, 1000])
def test_failure_auroc_is_scikit_learns(levels) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    scores, correct = scored(levels)
    expected = sklearn_metrics.roc_auc_score(correct, scores)
    assert metrics.failure_auroc(scores, correct) == pytest.approx(expected)


def test_failure_auroc_by_hand() -> None:
    assert metrics.failure_auroc([3, 2, 1, 2], [1, 1, 0, 0]) == pytest.approx(3.5 / 4)
    assert metrics.failure_auroc(np.zeros(4), [1, 1, 0, 0]) == 0.5
    # float32 as scorers give it, and scores of minus infinity
    scores = np.array([-np.inf, 0, 1], np.float32)
    assert metrics.failure_auroc(scores, np.array([False, False, True])) == 1.0


def test_order_of_the_samples_makes_no_difference() -> None:
    rng = np.random.default_rng(3)
    scores, correct = rng.integers(4, size=50), rng.integers(2, size=50)
    order = rng.permutation(50)
    for measure in (metrics.aurc, metrics.failure_auroc):
        again = measure(scores[order], correct[order])
        assert again == pytest.approx(measure(scores, correct), abs=1e-12)


@pytest.mark.parametrize(
    "scorer, score, probability",
    [
        ("max_prob", [0.2, 0.8], [0.2, 0.8]),
        ("eenet", [-1000.0, np.log(4)], [0.0, 0.8]),
        ("eenet_linear", [-0.4, 1.3], [0.0, 1.0]),
    ],
)
def test_scores_as_probabilities(scorer, score, probability) -> None:
    correct = np.array([[0, 1], [1, 1]])
    found = metrics.score_quality(scorer, np.array([score, score]), correct)
    expected = [metrics.calibration_error(probability, c) for c in correct]
    assert found["ece"] == pytest.approx(expected)
    assert found["failure_auroc"] == [1.0, None]
    assert found["aurc"] == pytest.approx([0.25, 0.0])


def test_other_scores_have_no_calibration_error() -> None:
    found = metrics.score_quality("entropy", np.ones((2, 3)), np.ones((2, 3)))
    assert found["ece"] == [None, None]
    json.dumps(found, allow_nan=False)


def test_per_class_by_hand() -> None:
    labels = np.array([0, 0, 0, 2, 2])  # class 1 is absent
    exit_index = np.array([0, 1, 1, 0, 0])
    correct = np.array([[1, 0, 0, 0, 1], [0, 1, 0, 1, 1]], bool)
    cost = np.array([1.0, 4.0])[exit_index]
    found = metrics.per_class(exit_index, correct, labels, cost, 3)
    assert found["accuracy"] == pytest.approx([2 / 3, None, 1 / 2])
    assert found["cost"] == pytest.approx([3.0, None, 1.0])
    assert found["exit_fraction"][0] == pytest.approx([1 / 3, 2 / 3])
    assert found["exit_fraction"][1:] == [[None, None], [1.0, 0.0]]
    json.dumps(found, allow_nan=False)
