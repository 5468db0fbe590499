"""Several processes that train on texts in length buckets."""

import jax
import numpy as np
import pytest
from test_distributed import finish, lines, start
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
def test_two_processes_train_on_texts(tmp_path) -> None:
    config = write_config(tmp_path / "data")
    workdir = tmp_path / "run"
    (status, _, err), (other, out, _) = finish(start(config, workdir, 2))
    assert status == other == 0, err
    assert "exit 1" not in out
    assert err.count("length buckets: ") == 1
    together = lines(workdir)
    two = load_predictions(workdir / "predictions.npz")
    assert two.test.correct[-1].mean() > 0.9  # all of them, and not by chance
    # Every text once, in buckets that fill no batch, as the network says of it alone.
    run = load_trained(workdir, "best")
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
