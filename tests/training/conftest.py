"""What tests of whole runs share."""

import pytest

from configs import default


@pytest.fixture(scope="session")
def small_config():
    """Builds configs of runs that take seconds."""
    return _small_config


def _small_config(**changes):
    """A run of ten steps on the digits; ``a__b=value`` changes field ``a.b``."""
    c = default.get_config()
    c.model.name = "cifar_resnet"
    c.model.options = {"depth": 8, "width": 4}
    c.model.exits = (1,)
    c.train.batch_size = 96
    c.train.epochs = 1
    c.optimizer.learning_rate = 0.05
    for name, value in changes.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c
