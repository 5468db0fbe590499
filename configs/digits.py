"""Handwritten digits, the first thing to run: a minute on two CPU cores.

    python train.py --config=configs/digits.py --workdir=runs/digits
    python evaluate.py --workdir=runs/digits

The data set is inside the package: 1,000 / 297 / 500 images of 8x8 pixels.
"""

from collections.abc import Iterator

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "cifar_resnet"
    c.model.exits = (0, 2, 5)  # the first right after the stem
    c.model.options.depth = 20
    c.model.options.head = "conv"
    c.model.options.reduction = 2

    c.data.name = "digits"
    c.data.val_size = 297
    c.data.crop_padding = 1

    c.train.batch_size = 96
    c.train.epochs = 50
    c.train.eval_epochs = 5
    c.train.ema_decay = 0.98

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 5e-3
    c.optimizer.weight_decay = 1e-2
    c.schedule.warmup_epochs = 2.0
    return c


def sweep() -> Iterator[tuple[str, dict[str, tuple]]]:
    """Yields what --sweep=lr,seed may vary; seed is always there."""
    yield "lr", {"optimizer.learning_rate": (2.5e-3, 5e-3, 1e-2)}
