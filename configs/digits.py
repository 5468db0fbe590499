"""Handwritten digits, the first thing to run: a minute on two CPU cores.

    python train.py --config=configs/digits.py --workdir=runs/digits
    python evaluate.py --workdir=runs/digits

The data set is inside the package: 1,000 / 297 / 500 images of 8x8 pixels.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "cifar_resnet"
    c.model.exits = (1, 3, 6)
    c.model.options.depth = 20

    c.data.name = "digits"
    c.data.val_size = 297
    c.data.crop_padding = 1

    c.train.batch_size = 96
    c.train.epochs = 60
    c.train.eval_epochs = 5

    c.optimizer.learning_rate = 0.1
    c.schedule.warmup_epochs = 2.0
    return c
