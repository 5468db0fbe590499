"""Predictive Exit's VGG-19 on CIFAR-10: an exit after every layer of a trained network.

    python train.py --config=configs/predictive_vgg19_cifar10.py \
        --config.model.exits="()" --config.train.objective=joint \
        --config.train.keep_last_head=False --config.data.dir=DIR \
        --workdir=runs/vgg19_normal
    python train.py --config=configs/predictive_vgg19_cifar10.py \
        --config.init_from=runs/vgg19_normal --config.data.dir=DIR \
        --workdir=runs/vgg19_exits

The first run is the network without exits ("original" in the published program), the
second its 20 exits on the frozen network ("exits"). Without --config.init_from and with
--config.train.objective=joint --config.train.keep_last_head=False both train at once.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "predictive_vgg19"
    c.model.options = {"width": 64, "codewords": 64, "share_heads": True}
    c.init_partial = True

    c.data.name = "cifar10"
    c.data.val_size = 5000
    c.data.flip = True
    c.data.mean = (0.5, 0.5, 0.5)
    c.data.std = (0.5, 0.5, 0.5)

    c.train.objective = "exits"
    c.train.keep_last_head = True
    c.train.batch_size = 128
    c.train.epochs = 100
    c.train.eval_epochs = 5
    c.train.cache_gib = 0.0  # exits read more than memory holds

    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 1e-3  # published: 2.5e-4 for the network alone
    c.optimizer.weight_decay = 0.0
    c.eval.batch_size = 256
    c.eval.train_samples = 5000
    return c
