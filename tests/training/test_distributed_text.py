"""Several processes that train on texts in length buckets."""

import pytest
from test_distributed import finish, start
from texts import write_texts

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
def test_processes_with_other_texts_are_refused(tmp_path) -> None:
    config = write_config(tmp_path / "data")
    write_config(tmp_path / "other")
    test = tmp_path / "other" / "test.csv"
    test.write_text(test.read_text().replace("good", "w3", 1))
    flags = [f"--config.data.dir={tmp_path}/{name}" for name in ("data", "other")]
    for status, out, err in finish(start(config, tmp_path / "run", 2, each=flags)):
        assert status == 1 and "exit 1" not in out and "Traceback" not in err
        assert "the data of csv of process 1 differ from those of process 0" in err
