"""Predictive Exit's VGG-19 at a quarter of its width: half an hour on two CPU cores.

    python train.py --config=configs/predictive_vgg19_narrow.py --config.data.dir=DIR \
        --workdir=runs/vgg19_narrow
    python evaluate.py --workdir=runs/vgg19_narrow \
        --scheduler=predictive_exit,predictive_exit:published,lagrangian

All 20 exits train with the network, each with a head of its own.
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = predictive_vgg19_cifar10.get_config()
    c.model.options.update(width=16, codewords=32, share_heads=False)

    c.data.crop_padding = 4

    c.train.objective = "joint"
    c.train.keep_last_head = False
    c.train.epochs = 6
    c.train.eval_epochs = 1

    c.optimizer.learning_rate = 3e-3
    c.schedule.warmup_epochs = 0.3

    # Few epochs: all exits learn alike, and from the last.
    c.loss.exit_weights = (0.05,) * 20 + (1.0,)
    c.loss.distill_weight = 0.0
    return c
