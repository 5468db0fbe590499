"""HRNet-W18-small with four exits on CamVid (11 classes of road scenes, and void).

    python -m eenet_jax.data.prepare camvid --data_dir=DIR --source=FILES
    python train.py --config=configs/camvid_hrnet18s.py --config.data.dir=DIR \
        --workdir=runs/camvid

For a GPU or TPU; ``configs/camvid_hrnet_narrow.py`` is for a CPU. The recipe is
Cityscapes' (BACKBONES 4.3) for a network that starts from nothing and 367 images.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "hrnet_w18s"
    # From scratch; published weights bring their own. mask="confidence" trains with
    # masks of the pixels that the exit before has decided.
    c.model.options = {"init": "he", "mask": "none", "mask_threshold": 0.998}
    c.data.name = "camvid"
    c.data.crop = (352, 480)
    c.data.scale = (0.5, 2.0)
    c.data.flip = True
    c.train.batch_size = 8
    c.train.epochs = 300
    c.train.eval_epochs = 10
    c.optimizer.learning_rate = 0.02
    c.optimizer.weight_decay = 5e-4
    c.optimizer.decay_all = True
    c.schedule.name = "poly"
    c.schedule.warmup_epochs = 2.0
    c.loss.exit_weights = (1.0, 1.0, 1.0, 1.0)
    # sqrt(median share / share) of each class's pixels in the training part.
    c.loss.class_weights = (
        0.52, 0.44, 2.13, 0.38, 1.00, 0.68, 1.96, 1.99, 0.87, 2.65, 3.92
    )  # fmt: skip
    c.loss.distill_weight = 0.0
    c.eval.batch_size = 8
    return c
