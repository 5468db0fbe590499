"""Several processes that train on texts in length buckets."""

import jax
import numpy as np
import pytest
from test_distributed import close, finish, lines, start
from texts import write_texts

from eenet_jax.data import inputs
from eenet_jax.predictions import load_predictions
from eenet_jax.trained import load_trained

CONFIG = """
from configs import default


def get_config():
    c = default.get_config()
    c.model.name = "bert"
    c.model.options = {{
        "num_layers": 2,
        "hidden": 16,
        "num_heads": 2,
        "intermediate": 32,
        "vocab_size": 27,
        "max_positions": 40,
        "dropout": 0.1,
        "pool": "mean",
    }}
    c.model.exits = (1,)
    c.data.num_buckets = 3
    c.train.batch_size = 16
    c.train.epochs = 10
    c.train.eval_epochs = 5
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-2
    c.eval.batch_size = 16
    c.update_from_flattened_dict({fields})
    return c
"""


def write_config(folder):
    """Writes texts and a config file of a run on them; returns the file."""
    folder.mkdir()
    fields = {
        name.replace("__", "."): value for name, value in write_texts(folder).items()
    }
    fields["data.val_size"] = 41
    (folder / "texts.py").write_text(CONFIG.format(fields=fields))
    return folder / "texts.py"


@pytest.mark.slow
def test_two_processes_train_on_texts_as_one(tmp_path) -> None:
    config = write_config(tmp_path / "data")
    runs, said = [], []
    for count in (1, 2):
        workdir = tmp_path / f"run{count}"
        (status, _, err), *others = finish(start(config, workdir, count))
        assert status == 0, err
        assert all(status == 0 and "exit 1" not in out for status, out, _ in others)
        said.append([x for x in err.splitlines() if x.startswith("length buckets: ")])
        runs.append(workdir)
    assert len(said[0]) == 1 and said[0] == said[1]
    found = [load_trained(workdir, "latest") for workdir in runs]
    assert found[0].step == found[1].step
    # Dropout too is that of one process; rounding is not, and Adam makes more of it.
    close(*(jax.device_get(run.variables) for run in found), 1e-3)

    alone, together = map(lines, runs)
    assert len(alone) == len(together) == 2
    one, two = (load_predictions(workdir / "predictions.npz") for workdir in runs)
    np.testing.assert_allclose(two.test.logits, one.test.logits, atol=1e-3)
    assert two.test.correct[-1].mean() > 0.9  # all of them, and not by chance
    # Every text once, as one process alone has it, in buckets that fill no batch.
    run = load_trained(runs[1], "best")
    line = [line for line in together if line["step"] == run.step][-1]
    counted = two.val.correct.mean(axis=1).tolist()
    assert [line[f"val/accuracy/exit_{k}"] for k in (1, 2)] == counted
    for part, split in ((run.dataset.val, two.val), (run.dataset.test, two.test)):
        np.testing.assert_array_equal(split.labels, part.labels)
        x = {
            "ids": part.ids,
            "mask": np.arange(part.ids.shape[1]) < part.lengths[:, None],
        }
        logits, _ = jax.jit(run.backbone.apply)(run.variables, x)
        np.testing.assert_allclose(split.logits, logits, rtol=1e-3, atol=1e-3)
    assert len(inputs.train_groups(run.dataset, 16)) > 1


@pytest.mark.slow
def test_processes_with_other_texts_are_refused(tmp_path) -> None:
    config = write_config(tmp_path / "data")
    write_config(tmp_path / "other")
    test = tmp_path / "other" / "test.csv"
    test.write_text(test.read_text().replace("good", "w3", 1))
    flags = [f"--config.data.dir={tmp_path}/{name}" for name in ("data", "other")]
    for status, out, err in finish(start(config, tmp_path / "run", 2, each=flags)):
        assert status == 1 and "exit 1" not in out and "Traceback" not in err
        assert "the data of csv of process 1 differ from those of process 0" in err
