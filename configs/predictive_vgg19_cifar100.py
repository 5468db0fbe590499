"""Predictive Exit's VGG-19 on CIFAR-100; the second run of two.

    python -m eenet_jax.data.prepare cifar100 --data_dir=DIR
    python train.py --config=configs/predictive_vgg19_cifar100.py \
        --config.init_from=runs/vgg19_cifar100_normal --config.data.dir=DIR \
        --workdir=runs/vgg19_cifar100

The first, of runs/vgg19_cifar100_normal, is as in predictive_vgg19_cifar10.py, on these
data.
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = predictive_vgg19_cifar10.get_config()
    c.data.name = "cifar100"
    return c
