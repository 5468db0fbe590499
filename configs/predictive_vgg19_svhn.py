"""Predictive Exit's VGG-19 on SVHN; the second run of two.

    python -m eenet_jax.data.prepare svhn_cropped --data_dir=DIR
    python train.py --config=configs/predictive_vgg19_svhn.py \
        --config.init_from=runs/vgg19_svhn_normal --config.data.dir=DIR \
        --workdir=runs/vgg19_svhn

The first, of runs/vgg19_svhn_normal, is as in predictive_vgg19_cifar10.py, on these
data.
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = predictive_vgg19_cifar10.get_config()
    c.data.name = "svhn_cropped"
    c.data.flip = False  # published: as the others, but a digit's mirror image is none
    return c
