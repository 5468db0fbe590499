"""EENet's DenseNet121-4 (k = 12) on CIFAR-100, with the paper's recipe (WACV 2024).

    python -m eenet_jax.data.prepare cifar100 --data_dir=DIR
    python train.py --config=configs/cifar100_densenet121.py --config.data.dir=DIR \
        --workdir=runs/cifar100_densenet121
"""

import ml_collections

from configs import cifar10_resnet56


def get_config() -> ml_collections.ConfigDict:
    """Returns the config: the recipe is ResNet56's."""
    c = cifar10_resnet56.get_config()
    c.model.name = "densenet121_4"
    c.model.exits = (1, 2, 3)
    c.model.options = ml_collections.ConfigDict({"growth": 12, "stem": "cifar"})
    c.data.name = "cifar100"
    return c
