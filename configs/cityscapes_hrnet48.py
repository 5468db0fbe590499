"""HRNet-W48 with four exits on Cityscapes, with ADP-C's recipe (ICLR 2022).

    python -m eenet_jax.data.prepare cityscapes --data_dir=DIR --source=ZIPS
    python train.py --config=configs/cityscapes_hrnet48.py --config.data.dir=DIR \
        --config.init_from=hrnetv2_w48_imagenet_pretrained.pth \
        --config.init_partial=True --workdir=runs/cityscapes

The files are had by hand (registration): leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip in one directory, ZIPS. The backbone's weights are HRNet's own
for ImageNet. Published: 44.6, 60.2, 76.6 and 79.9 % mIoU by exit; with masks,
--config.model.options.mask=confidence, the last has 81.3 % at 387.1 G multiply-adds.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "hrnet_w48"
    c.model.options = {"mask": "none", "mask_threshold": 0.998, "learn_lambda": False}
    c.data.name = "cityscapes"
    c.data.val_size = 275
    c.data.crop = (512, 1024)
    c.data.scale = (0.5, 2.1)
    c.data.flip = True
    c.data.num_workers = 8

    c.train.batch_size = 12
    c.train.epochs = 484
    c.train.eval_epochs = 10

    c.optimizer.learning_rate = 0.01
    c.optimizer.weight_decay = 5e-4
    c.optimizer.decay_all = True
    c.schedule.name = "poly"
    c.schedule.power = 0.9

    c.loss.exit_weights = (1.0, 1.0, 1.0, 1.0)
    c.loss.class_weights = (
        0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
        0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
    )  # fmt: skip
    c.loss.distill_weight = 0.0

    c.eval.batch_size = 4
    return c
