"""Every field of a config, with its type, unit and default.

Experiments take this and change a few fields; so does the command line:

    python train.py --config=configs/default.py --workdir=runs/try \
        --config.train.epochs=5 --config.optimizer.learning_rate=0.05
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the default config."""
    c = ml_collections.ConfigDict()
    # Seeds initialisation, batch order, augmentation and dropout. The validation
    # split does not depend on it.
    c.seed = 0
    # Compute type: "float32", "bfloat16", or "auto" (bfloat16 on GPU and TPU, float32
    # on CPU). Parameters, losses and logits are float32 always.
    c.dtype = "auto"

    c.model = ml_collections.ConfigDict()
    c.model.name = "cifar_resnet"  # one of eenet_jax.backbones.BACKBONES
    # Locations of the early exits, for ResNets the number of blocks before each, e.g.
    # (9, 18); None for the backbone's own. The exit at the end is always there.
    c.model.exits = config_dict.placeholder(tuple)
    # The backbone's own options; for cifar_resnet: depth (6n + 2), width (channels),
    # shortcut ("identity", "projection"), head ("conv", "linear"), reduction.
    c.model.options = ml_collections.ConfigDict()
    c.model.options.depth = 20

    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # one of eenet_jax.data.sources
    # TFDS directory, or the file of data.name="npz"; "" for the TFDS default.
    c.data.dir = ""
    c.data.val_size = 297  # examples of the training part set aside for validation
    # Augmentation of training images, in pixels: zero padding before a random crop,
    # and the side of a blanked square (0 turns either off); horizontal flips.
    c.data.crop_padding = 0
    c.data.flip = False
    c.data.cutout = 0

    c.train = ml_collections.ConfigDict()
    c.train.batch_size = 128  # over all devices
    c.train.epochs = 10
    c.train.max_steps = 0  # ends the run earlier, for a quick try; 0 for no limit
    c.train.eval_epochs = 1  # validate and save a checkpoint every so many epochs
    c.train.log_steps = 100  # write metrics at least every so many steps
    c.train.ema_decay = 0.0  # moving average of the weights, evaluated instead; 0: off

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "sgd"  # "sgd", "adam", "adamw"
    c.optimizer.learning_rate = 0.1  # peak
    c.optimizer.momentum = 0.9  # of sgd
    c.optimizer.nesterov = False
    c.optimizer.weight_decay = 5e-4  # L2 for sgd and adam, decoupled for adamw
    c.optimizer.decay_all = False  # True: norms and biases too, as published
    c.optimizer.clip_norm = 0.0  # clips the gradient's global norm; 0: off

    c.schedule = ml_collections.ConfigDict()
    c.schedule.name = "cosine"  # "constant", "cosine", "multistep"
    c.schedule.warmup_epochs = 0.0  # linear, from one step's worth
    c.schedule.milestones = ()  # epochs at which "multistep" multiplies by the factor
    c.schedule.factor = 0.1

    c.loss = ml_collections.ConfigDict()
    c.loss.label_smoothing = 0.0
    # Late self-distillation: the last exit teaches the earlier ones after this share
    # of the run. distill_form "published" is EENet's literal form (see losses.py).
    c.loss.distill_weight = 0.01
    c.loss.distill_temperature = 3.0
    c.loss.distill_start = 0.75
    c.loss.distill_form = "per_sample"

    c.eval = ml_collections.ConfigDict()
    c.eval.batch_size = 512  # over all devices
    return c
