"""Hyper-parameters of schedulers and budgets as axes of evaluate.py."""

import json

import numpy as np
import pytest

from eenet_jax import evaluation, options, schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split, save_predictions

QUICK_COMPILES = True
SWEEP = "msdnet,lagrangian:stopping+prices=4+units=4/8"
NAMES = ["msdnet", *(f"lagrangian:stopping+prices=4+units={u}" for u in (4, 8))]


@pytest.fixture
def file(tmp_path):
    """A file of made-up predictions of two exits."""
    rng = np.random.default_rng(0)

    def draw():
        labels = rng.integers(0, 5, 80).astype(np.int32)
        logits = rng.normal(size=(2, 80, 5)).astype(np.float32)
        logits[:, np.arange(80), labels] += [[1.0], [3.0]]
        return Split(logits, labels)

    save_predictions(
        tmp_path / "some.npz", Predictions(draw(), draw(), np.array([1.0, 2.0]))
    )
    return tmp_path / "some.npz"


def test_a_record_for_every_combination(file, run_command):
    flags = [f"--predictions={file}", f"--scheduler={SWEEP}", "--budgets=1.2:1.8:3"]
    status, out, err = run_command("evaluate", *flags)
    assert status == 0, err
    folder = file.with_name("some_eval")
    records = json.loads((folder / "results.json").read_text())["records"]
    found = [(record["scheduler"], record["budget"]) for record in records]
    assert found == [(name, budget) for name in NAMES for budget in (1.2, 1.5, 1.8)]
    assert all(name in out for name in NAMES)
    kept = {path.stem for path in (folder / "policies").glob("*.npz")}
    assert kept == set(NAMES)

    _, _, err = run_command("evaluate", *flags)
    assert all(f"{name}: read back, had been fitted" in err for name in NAMES)
    policy = folder / "policies" / f"{NAMES[1]}.npz"
    given = [f"--predictions={file}", f"--policy={policy}", "--budgets=1.5"]
    status, _, err = run_command("evaluate", *given, f"--output={file.parent / 'one'}")
    assert status == 0, err
    applied = json.loads((file.parent / "one" / "results.json").read_text())["records"]
    assert applied[0]["scheduler"] == NAMES[1]
    assert applied[0]["test_accuracy"] == records[4]["test_accuracy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lagrangian:unit=4/8", "lagrangian has no 'unit'; choose from prices, lowest"),
        ("lagrangian:units=4/x", "units=x must be a whole number of at least 1"),
        ("lagrangian:units=4/", "units= must be a whole number"),
        ("pabee:units=4/8", "pabee has no hyper-parameters; give the name alone"),
        ("all:units=4", "'all:units=4' is unknown; choose from"),
    ],
)
def test_what_cannot_be_is_refused(file, run_command, text, message):
    status, _, err = run_command(
        "evaluate", f"--predictions={file}", f"--scheduler={text}"
    )
    assert status == 1 and err.startswith("error: --scheduler=") and message in err
    assert len(err.splitlines()) == 1


def test_what_lacks_evidence_is_named_with_its_hyper_parameters(file):
    split = Split(np.zeros((2, 5, 4), np.float32), np.zeros(5, np.int32))
    predictions = Predictions(split, split, np.array([1.0, 2.0]))
    names, _ = options.parse_schedulers("predictive_exit:units=4/8", predictions)
    assert names == [f"predictive_exit:units={units}" for units in (4, 8)]
    for text in ("leenet:alphas=4", "predictive_exit:published+beta=1/2"):
        with pytest.raises(UserError, match="(alphas=4|beta=2) needs "):
            options.parse_schedulers(text, predictions)
    assert schedulers.missing_evidence("lagrangian:units=4", predictions) is None


def test_hyper_parameters_make_no_other_draws(key):
    draw = evaluation._fit_key
    assert draw(key, "eenet:hidden=4", 0) == draw(key, "eenet", 0)
    assert draw(key, "eenet:nn+exp+folds=3", 1) == draw(key, "eenet:nn+exp", 1)
    assert draw(key, "eenet:nn+exp", 0) != draw(key, "eenet", 0)
