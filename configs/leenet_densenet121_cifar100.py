"""LEENet's DenseNet-121 on CIFAR-100: exits and gates on a frozen, imported network.

    python train.py --config=configs/leenet_densenet121_cifar100.py --alpha=0.5 \
        --config.init_from=densenet121.pth --config.data.dir=DIR \
        --workdir=runs/leenet_densenet121

The weights are those of a DenseNet-121 of growth 12 for CIFAR-100.
"""

import ml_collections

from configs import leenet_vgg11_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = leenet_vgg11_cifar10.get_config()
    c.model.name = "leenet_densenet121"
    c.model.options = ml_collections.ConfigDict({"growth": 12})

    c.data.name = "cifar100"
    c.data.mean = ()  # the data set's own
    c.data.std = ()
    return c
