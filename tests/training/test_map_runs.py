"""Runs whose labels are maps: training, evaluation, policies really run."""

import json

import jax
import numpy as np
import pytest

from eenet_jax import adaptive, backbones, evaluation, pictures, trained
from eenet_jax.errors import UserError
from eenet_jax.iou import mean_iou
from eenet_jax.predictions import load_predictions
from eenet_jax.report.files import write_report
from eenet_jax.schedulers import fit
from eenet_jax.training import loop
from tests import maps


@pytest.fixture(scope="module", autouse=True)
def toy_map():
    """Registers the small network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "toy_map", maps.network)
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A data set of one's own."""
    path = tmp_path_factory.mktemp("maps") / "data.npz"
    maps.write_npz(path)
    return path


@pytest.fixture(scope="module")
def run(file, small_config):
    """A trained run: its workdir and its config."""
    folder = file.parent
    config = maps.config(
        small_config,
        file,
        data__crop=(32, 32),
        data__scale=(0.8, 1.2),
        data__flip=True,
    )
    return folder / "run", config, loop.train(config, folder / "run")


@pytest.fixture(scope="module")
def predictions(run):
    return trained.workdir_predictions(run[0])


def test_training_learns_and_measures_mean_iou(run):
    workdir, _, result = run
    assert result.val_accuracy.shape == (3,)
    assert result.val_accuracy.min() > 0.3
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    assert any("val/miou/exit_3" in line for line in lines)


def test_predictions_hold_what_the_contract_says(run, predictions):
    stored = load_predictions(run[0] / "predictions.npz")
    for part, count in (("val", 10), ("test", 13)):
        ours, theirs = getattr(stored, part), getattr(predictions, part)
        assert ours.labels is None and ours.logits.shape == (3, count, 3)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
        np.testing.assert_array_equal(ours.confusion, theirs.confusion)
        known = ours.confusion[0, 0].sum()
        assert known == 30 * 40  # two of 32 rows are void
    with np.load(run[0] / "predictions.npz") as arrays:
        np.testing.assert_allclose(arrays["val_probs"].sum(-1), 1, atol=1e-5)
        assert {"val_confidence", "test_confidence"} <= set(arrays)
    np.testing.assert_allclose(stored.val.exit_accuracy, run[2].val_accuracy, atol=1e-6)


@pytest.fixture(scope="module")
def results(run, predictions):
    low, high = predictions.costs[[0, -1]]
    names = ["maxprob_opt", "lagrangian:stopping+prices=4+units=4"]
    return evaluation.evaluate(
        predictions,
        schedulers=names,
        budgets=np.linspace(low, high, 3),
        key=jax.random.key(0),
        run=adaptive.runner(run[0], "best", predictions, None),
    )


@pytest.mark.slow
def test_policies_run_as_simulated(results, predictions):
    assert results["metric"] == "miou"
    assert len(results["records"]) == 6
    for record in results["records"]:
        assert record["met"]
        assert record["decided_otherwise"] == 0
        assert record["queued"]["decided_otherwise"] == 0
        assert record["adaptive_accuracy"] == pytest.approx(
            record["test_accuracy"], abs=2e-3
        )
    for part in ("val", "test"):
        counts = getattr(predictions, part).confusion.sum(axis=1)
        np.testing.assert_allclose(
            results["exit_accuracy"][part], mean_iou(counts), rtol=1e-9
        )
    # A budget for everything: the most accurate single path is as good as the last.
    first = [r for r in results["records"] if r["budget"] == results["costs"][0]]
    for record in first:
        assert record["test_accuracy"] == results["exit_accuracy"]["test"][0]


@pytest.mark.slow
def test_the_comparison_is_of_mean_iou(results):
    comparison = results["comparison"]
    assert comparison["reference"] == "maxprob_opt"
    top = comparison["schedulers"]["maxprob_opt"]["grid"]["accuracy"]
    alone = results["exit_accuracy"]["test"]
    assert min(alone) - 0.05 <= min(top) <= max(top) <= max(alone) + 0.05
    of_cheapest = comparison["schedulers"]["maxprob_opt"]["points"]["accuracy"]
    assert len(of_cheapest) == 3


@pytest.mark.slow
def test_the_report_shows_images_and_classes(run, results, tmp_path):
    source = pictures.map_source(run[0], "best")
    text = write_report(results, tmp_path, lambda: source)
    assert "Test IoU of every class" in text and "mIoU" in text
    assert "clairvoyant" not in text
    written = {path.name for path in tmp_path.iterdir()}
    assert {"results.json", "frontier.png", "exits.png", "examples.png"} <= written
    assert "classes.png" not in written
    stored = json.loads((tmp_path / "results.json").read_text())
    assert np.shape(stored["exit_class_iou"]["test"]) == (3, 3)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("pabee", {}, "pabee needs samples of one class"),
        ("leenet", {}, "leenet needs samples of one class"),
        ("msdnet", {"temperature": True}, "--temperature and --ensemble are for"),
        ("msdnet", {"ensemble": True}, "--temperature and --ensemble are for"),
    ],
)
def test_what_needs_one_class_is_refused(predictions, key, name, options, message):
    with pytest.raises(UserError, match=message):
        fit(name, predictions, key=key, **options)


def test_a_drop_of_mean_iou_has_no_guarantee(predictions, key):
    with pytest.raises(UserError, match="--max_drop=0.01 bounds a mean over samples"):
        evaluation.evaluate(
            predictions,
            schedulers=["msdnet"],
            budgets=predictions.costs[-1:],
            key=key,
            max_drop=0.01,
        )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__cutout": 4}, "data.cutout=4 is not for data.name='npz'"),
        ({"loss__class_weights": (1.0, 2.0)}, "one number for each of the 3 classes"),
        ({"data__crop": (8,)}, "data.crop=.* must be"),
        ({"data__scale": (2.0, 1.0)}, "data.scale=.* must be"),
        ({"data__resize": (32, 32)}, "data.resize=.* is for data.name of camvid"),
        ({"gates__inputs": "average"}, "gates.inputs='average' is for networks that"),
        ({"eval__train_samples": 9}, "eval.train_samples=9 is for networks that"),
        (
            {"train__objective": "exits", "train__blocks": "2x2", "init_from": "x"},
            "train.blocks='2x2' is for train.objective='joint' only",
        ),
        (
            {"model__name": "cifar_resnet", "model__options": {"depth": 8, "width": 4}},
            "answers with a class, but data.name='npz' has a map",
        ),
    ],
)
def test_configs_that_do_not_fit(file, small_config, tmp_path, changes, message):
    config = maps.config(small_config, file)
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    if "model.name" in changes:
        config.loss.exit_weights = ()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path / "run")


def test_maps_need_a_network_of_maps(small_config, tmp_path):
    config = small_config(model__name="toy_map", model__exits=None, model__options={})
    with pytest.raises(UserError, match="answers with a map, but data.name='digits'"):
        loop.train(config, tmp_path / "run")


@pytest.mark.slow
def test_blocks_run_as_simulated(run, tmp_path):
    predictions = trained.workdir_predictions(run[0], blocks="2x2+1")
    assert (run[0] / "blocks_2x2+1" / "predictions.npz").exists()
    assert predictions.samples_per_image == 4
    assert predictions.test.num_samples == 4 * 13
    pixels = predictions.test.confusion[0].reshape(13, 4, 3, 3).sum((1, 2, 3))
    assert (pixels == 30 * 40).all()
    results = evaluation.evaluate(
        predictions,
        schedulers=["maxprob_opt", "eenet"],
        budgets=predictions.costs[[1, 2]],
        key=jax.random.key(0),
        run=adaptive.runner(run[0], "best", predictions, None, blocks="2x2+1"),
    )
    with pytest.raises(UserError, match="--confidence=0.9 is for independent samples"):
        evaluation.evaluate(
            predictions,
            schedulers=["msdnet"],
            budgets=predictions.costs,
            key=jax.random.key(0),
            confidence=0.9,
        )
    for record in results["records"]:
        assert record["decided_otherwise"] == 0
        assert record["queued"]["decided_otherwise"] == 0
        assert record["adaptive_accuracy"] == pytest.approx(
            record["test_accuracy"], abs=2e-3
        )
        assert record["wall_ms_per_sample"] > 0
    source = pictures.map_source(run[0], "best", blocks="2x2+1")
    assert set(np.unique(source.read([0, 3]).block)) == {0, 1, 2, 3}
    write_report(results, tmp_path, lambda: source)
    assert (tmp_path / "examples.png").exists()
    stored = load_predictions(run[0] / "blocks_2x2+1" / "predictions.npz")
    assert stored.samples_per_image == 4
