"""Predictive Exit's ResNet-34 on CIFAR-10: an exit after every half residual block.

    python train.py --config=configs/predictive_resnet34_cifar10.py \
        --config.model.exits="()" --config.train.objective=joint \
        --config.train.keep_last_head=False --config.data.dir=DIR \
        --workdir=runs/resnet34_normal
    python train.py --config=configs/predictive_resnet34_cifar10.py \
        --config.init_from=runs/resnet34_normal --config.data.dir=DIR \
        --workdir=runs/resnet34_exits

For STL-10: --config.data.name=stl10 --config.data.val_size=500 and
--config.model.options.pool=3 in both. The published forecast is here
predictive_exit:published+past_last=1.
"""

import ml_collections

from configs import predictive_vgg19_cifar10


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = predictive_vgg19_cifar10.get_config()
    c.model.name = "predictive_resnet34"
    c.model.options.pool = 1
    return c
