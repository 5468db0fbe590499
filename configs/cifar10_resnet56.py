"""EENet's ResNet56-3 on CIFAR-10, with the paper's recipe (WACV 2024).

    python -m eenet_jax.data.prepare cifar10 --data_dir=DIR
    python train.py --config=configs/cifar10_resnet56.py --config.data.dir=DIR \
        --workdir=runs/cifar10_resnet56

Add --config.train.max_steps=20 to try it on a CPU.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "resnet56_3"
    c.model.exits = (9, 18)
    c.model.options = ml_collections.ConfigDict({"head": "conv", "reduction": 4})

    c.data.name = "cifar10"
    c.data.val_size = 5000
    c.data.crop_padding = 4
    c.data.flip = True

    c.train.batch_size = 128
    c.train.epochs = 150

    c.optimizer.learning_rate = 0.1
    c.optimizer.weight_decay = 5e-4
    c.optimizer.decay_all = True
    c.schedule.name = "multistep"
    c.schedule.milestones = (50, 100)
    c.schedule.factor = 0.1
    return c
