"""LEENet's VGG-11 on CIFAR-10: exits and gates on a frozen, imported network.

    python train.py --config=configs/leenet_vgg11_cifar10.py --alpha=0.5 \
        --config.init_from=vgg11_bn.pth --config.data.dir=DIR \
        --workdir=runs/leenet_vgg11

The weights are those of a single-exit VGG-11 for CIFAR-10 (--config.init_partial=True
for one with another classifier), which the authors normalise with CIFAR-100's mean and
deviation. All exits and the last classifier train in one phase, the gates in the next.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "leenet_vgg11_bn"
    c.model.options = ml_collections.ConfigDict({"hidden": 4096})

    c.data.name = "cifar10"
    c.data.val_size = 5000
    c.data.mean = (0.507, 0.4865, 0.4409)
    c.data.std = (0.2673, 0.2564, 0.2761)

    c.train.objective = "exits"
    c.train.batch_size = 64
    c.train.epochs = 30
    c.train.eval_epochs = 3
    c.train.patience = 3

    # Published: Adam at 1e-4, made anew in every step; here once, at a higher rate.
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 1e-2
    c.gates.inputs = "average"
    return c
