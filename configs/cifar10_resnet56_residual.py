"""Exits with residual heads on a fine-tuned ResNet-56; an hour on two CPU cores.

    python train.py --config=configs/cifar10_resnet56_residual.py \
        --config.init_from=runs/cifar10_resnet56_finetuned --config.data.dir=DIR \
        --workdir=runs/cifar10_resnet56_residual

The stages and the last exit stay as the run of configs/cifar10_resnet56_finetuned.py
left them; its weak early exits are replaced. Augmented images pass the frozen stages
anew in each step, as far as the second exit.
"""

import ml_collections

from configs import cifar10_resnet56_pretrained


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = cifar10_resnet56_pretrained.get_config()
    c.init_partial = True
    c.model.exits = (6, 12)
    c.model.options = ml_collections.ConfigDict({"head": "residual"})

    c.data.crop_padding = 4
    c.data.flip = True

    c.train.cache_gib = 0.0
    c.train.epochs = 10
    c.train.eval_epochs = 2

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.1
    c.optimizer.weight_decay = 5e-4
    c.schedule.warmup_epochs = 0.25
    return c
