"""Fashion-MNIST with a ResNet-20 of four exits.

    python -m eenet_jax.data.prepare fashion_mnist --data_dir=DIR
    python train.py --config=configs/fashion_mnist.py --config.data.dir=DIR \
        --workdir=runs/fashion_mnist
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "cifar_resnet"
    c.model.exits = (1, 3, 6)
    c.model.options.depth = 20

    c.data.name = "fashion_mnist"
    c.data.val_size = 5000
    c.data.crop_padding = 2
    c.data.flip = True

    c.train.batch_size = 128
    c.train.epochs = 20
    c.schedule.warmup_epochs = 1.0
    return c
