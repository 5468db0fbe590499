"""ResNet-50 with four exits on Imagenette, streamed; from ImageNet weights if given.

    python -m eenet_jax.data.prepare imagenette --data_dir=DIR
    python train.py --config=configs/imagenette_resnet50.py --config.data.dir=DIR \
        --workdir=runs/imagenette_resnet50 [--config.init_from=resnet50.pth \
        --config.init_partial=True --config.optimizer.learning_rate=0.01]

``init_partial`` leaves the last head fresh: ImageNet's has 1,000 classes.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "resnet50"
    c.model.exits = (3, 7, 13)
    c.model.options = ml_collections.ConfigDict({"head": "conv", "reduction": 4})

    c.data.name = "imagenette"
    c.data.val_size = 1000
    c.data.image_size = 224
    c.data.flip = True

    c.train.batch_size = 64
    c.train.epochs = 40

    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 1e-4
    c.schedule.warmup_epochs = 2.0

    c.eval.batch_size = 128
    return c
