"""A narrow HRNet with four exits on CamVid at 240 x 180 pixels, for a CPU.

    python train.py --config=configs/camvid_hrnet_narrow.py --config.data.dir=DIR \
        --workdir=runs/camvid_narrow
    python evaluate.py --workdir=runs/camvid_narrow
"""

import ml_collections

from configs import camvid_hrnet18s


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = camvid_hrnet18s.get_config()
    c.model.options.update({"width": 16, "stem_width": 32, "head_width": 32})
    c.data.resize = (180, 240)
    c.data.crop = (160, 224)
    c.data.scale = (0.75, 1.75)
    c.train.epochs = 50
    c.train.eval_epochs = 5
    c.train.log_steps = 45

    # Few steps, from nothing: Adam.
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.weight_decay = 0.02
    c.optimizer.decay_all = False
    return c
