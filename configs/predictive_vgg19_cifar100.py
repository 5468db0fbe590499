"""Predictive Exit's VGG-19 on CIFAR-100; the two runs of predictive_vgg19_cifar10.py.

    python -m eenet_jax.data.prepare cifar100 --data_dir=DIR
    python train.py --config=configs/predictive_vgg19_cifar100.py \
        --config.init_from=runs/vgg19_normal --config.data.dir=DIR \
        --workdir=runs/vgg19_cifar100
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = predictive_vgg19_cifar10.get_config()
    c.data.name = "cifar100"
    return c
