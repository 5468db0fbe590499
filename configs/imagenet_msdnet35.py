"""EENet's MSDNet35-5 on ImageNet, with the paper's recipe (WACV 2024).

    python -m eenet_jax.data.prepare imagenet2012 --data_dir=DIR --source=FILES_DIR
    python train.py --config=configs/imagenet_msdnet35.py --config.data.dir=DIR \
        --workdir=runs/imagenet_msdnet35 --config.data.num_workers=32

The images are streamed: take as many workers as the machine has cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "msdnet35_5"
    c.model.options = ml_collections.ConfigDict()

    c.data.name = "imagenet2012"
    c.data.val_size = 50_000
    c.data.image_size = 224
    c.data.num_workers = 16
    c.data.flip = True

    c.train.batch_size = 64
    c.train.epochs = 200
    c.train.eval_epochs = 1

    c.optimizer.learning_rate = 0.1
    c.optimizer.weight_decay = 1e-4
    c.optimizer.decay_all = True
    c.schedule.name = "multistep"
    c.schedule.milestones = (75, 150)
    c.schedule.factor = 0.1

    c.eval.batch_size = 256
    return c
