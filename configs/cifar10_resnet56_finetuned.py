"""A whole ResNet-56 with exits, from imported weights; an hour on two CPU cores.

    python train.py --config=configs/cifar10_resnet56_finetuned.py \
        --config.init_from=cifar10_resnet56.npz --config.data.dir=DIR \
        --workdir=runs/cifar10_resnet56_finetuned

Where configs/cifar10_resnet56_pretrained.py leaves the imported network as it is, here
all exits train it on, so that its early blocks learn to separate classes too.
"""

import ml_collections

from configs import cifar10_resnet56_pretrained


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = cifar10_resnet56_pretrained.get_config()
    c.model.exits = (9, 12, 15, 18)

    c.data.crop_padding = 4
    c.data.flip = True

    c.train.objective = "joint"
    c.train.keep_last_head = False
    c.train.epochs = 3
    c.train.eval_epochs = 1

    c.optimizer.name = "sgd"
    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 5e-4
    c.schedule.warmup_epochs = 0.1

    # Three epochs are few: early exits learn as much as the last, and from it.
    c.loss.exit_weights = (0.2, 0.2, 0.2, 0.2, 0.2)
    c.loss.distill_weight = 0.05
    c.loss.distill_start = 0.0
    return c
