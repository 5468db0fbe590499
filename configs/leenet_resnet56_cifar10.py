"""Exits and gates on a frozen, imported ResNet-56; a quarter of an hour on a CPU.

    python train.py --config=configs/leenet_resnet56_cifar10.py --alpha=0.5 \
        --config.init_from=cifar10_resnet56.npz --config.data.dir=DIR \
        --workdir=runs/leenet_resnet56
"""

import ml_collections

from configs import cifar10_resnet56_pretrained


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = cifar10_resnet56_pretrained.get_config()
    c.train.epochs = 12
    c.train.eval_epochs = 2
    c.train.patience = 2
    c.gates.inputs = "average"
    return c
