"""Exits on a frozen, imported ResNet-56; twenty minutes on two CPU cores.

    python train.py --config=configs/cifar10_resnet56_pretrained.py \
        --config.init_from=cifar10_resnet56.npz --config.data.dir=DIR \
        --workdir=runs/cifar10_resnet56_pretrained

The weights are those of akamaster/pytorch_resnet_cifar10, which normalises with the
mean and deviation of ImageNet. Their last exit stays as it is.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "resnet56"
    c.model.exits = (9, 14, 18, 22)
    c.model.options = ml_collections.ConfigDict({"head": "conv", "reduction": 2})

    c.data.name = "cifar10"
    c.data.val_size = 5000
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)

    c.train.objective = "exits"
    c.train.keep_last_head = True
    c.train.batch_size = 128
    c.train.epochs = 5
    c.train.eval_epochs = 5

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 5e-3
    c.optimizer.weight_decay = 1e-2
    c.schedule.warmup_epochs = 0.2
    return c
