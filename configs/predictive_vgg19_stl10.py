"""Predictive Exit's VGG-19 on STL-10; the second run of two.

    python -m eenet_jax.data.prepare stl10 --data_dir=DIR
    python train.py --config=configs/predictive_vgg19_stl10.py \
        --config.init_from=runs/vgg19_stl10_normal --config.data.dir=DIR \
        --workdir=runs/vgg19_stl10

The first, of runs/vgg19_stl10_normal, is as in predictive_vgg19_cifar10.py, on these
data. The published forecast is here predictive_exit:published+rounds=5.
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config: images are 96x96, and 5,000 are there to train on."""
    c = predictive_vgg19_cifar10.get_config()
    c.model.name = "predictive_vgg19_stl10"
    c.data.name = "stl10"
    c.data.val_size = 500
    return c
