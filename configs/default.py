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
    # Trains so many seeds, from this one on, in one program, each into a directory of
    # its own in --workdir, as --sweep=seed does in turn; 0 for one run.
    c.vmap_seeds = 0
    # Compute type: "float32", "bfloat16", or "auto" (bfloat16 on GPU and TPU, float32
    # on CPU). Parameters, losses and logits are float32 always.
    c.dtype = "auto"
    # Weights to start from: the PyTorch checkpoint of this network or of its one-exit
    # form (.npz, .safetensors, .pth, .tar, or a Hugging Face directory), or another
    # run's workdir; "" for none.
    c.init_from = ""
    # True: tensors that are missing there, unexpected or of another shape are left out
    # and said, and a run gives its stages and last exit alone, so that it may have
    # other early exits; False: all must fit.
    c.init_partial = False

    c.model = ml_collections.ConfigDict()
    c.model.name = "resnet20"  # one of eenet_jax.backbones.BACKBONES
    # Locations of the early exits, for ResNets the number of blocks before each, e.g.
    # (9, 18); None for the backbone's own. The exit at the end is always there.
    c.model.exits = config_dict.placeholder(tuple)
    # What else the network can be told, by name; a config file sets what it needs. For
    # "cifar_resnet": depth (6n + 2), width (channels), shortcut ("identity",
    # "projection"), head ("conv", "linear", "flat", "residual"), reduction.
    c.model.options = ml_collections.ConfigDict()

    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # one of eenet_jax.data.sources
    # TFDS directory; the file of data.name="npz"; the directory of "folder" (images) or
    # "csv" (texts). "" for the TFDS default.
    c.data.dir = ""
    # Examples of the training part set aside for validation; 0 for the set's default.
    c.data.val_size = 297
    # Label maps: height and width that images and maps are resized to, () for their
    # own; and for training those of a window cut out at random, () for the whole, of
    # the image enlarged by a factor between two, () for 1.
    c.data.resize = ()
    c.data.crop = ()
    c.data.scale = ()
    # Augmentation of training images, in pixels: zero padding before a random crop,
    # and the side of a blanked square (0 turns either off); horizontal flips.
    c.data.crop_padding = 0
    c.data.flip = False
    c.data.cutout = 0
    c.data.rotation = 0.0  # degrees, drawn between minus and plus this; 0: off
    # Mean and deviation per channel, on a scale of [0, 1], that images are normalised
    # with; () for the data set's own. Imported weights need those they were made with.
    c.data.mean = ()
    c.data.std = ()
    # Streamed images (imagenette, imagenet2012, folder): side in pixels of the random
    # resized crop in training and of the centre crop in evaluation, and processes
    # that decode.
    c.data.image_size = 224
    c.data.num_workers = 4
    # Text: a tokenizer.json or vocab.txt, or a directory with either; the most tokens
    # kept of a text; length buckets, each of which is compiled once and padded to its
    # longest; and for "csv" the columns that make up the text and that of the label.
    c.data.tokenizer = ""
    c.data.max_length = 128
    c.data.num_buckets = 4
    c.data.text_columns = ("text",)
    c.data.label_column = "label"

    c.train = ml_collections.ConfigDict()
    # "joint": the whole network on the losses of all exits. "exits": the heads alone,
    # on stages frozen as init_from has them.
    c.train.objective = "joint"
    # For "exits": True keeps the last head as imported too. What the heads read is
    # computed once, without augmentation, where it needs at most cache_gib GiB, and
    # else anew in each step.
    c.train.keep_last_head = False
    c.train.cache_gib = 8.0
    # For "exits": each head is kept as it was at its best on the validation part, and
    # the run ends when none has become better in so many validations; 0 for neither.
    c.train.patience = 0
    c.train.batch_size = 128  # over all devices
    # Parts that a batch is cut into where it does not fit: the devices take one after
    # the other, and a step follows the mean gradient. BatchNorm sees parts, not the
    # whole batch. On CPUs it is slow (a loop around convolutions).
    c.train.accumulate = 1
    # Of label maps: "2x2+1" trains for evaluate.py --blocks=2x2+1, with maps cut into
    # such blocks after the first stage; "" for whole images.
    c.train.blocks = ""
    # True: parameters and optimiser state are cut over the devices, each of which
    # fetches the rest of a layer when it is due, for networks that would fill a device.
    c.train.fsdp = False
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
    c.schedule.name = "cosine"  # "constant", "cosine", "multistep", "poly"
    c.schedule.warmup_epochs = 0.0  # linear, from one step's worth
    c.schedule.milestones = ()  # epochs at which "multistep" multiplies by the factor
    c.schedule.factor = 0.1
    c.schedule.power = 0.9  # of "poly": (1 - step / steps) to this power

    c.loss = ml_collections.ConfigDict()
    # Of the exits' losses, one each; () for EENet's, j / (K (K + 1)), which grow from
    # exit to exit.
    c.loss.exit_weights = ()
    c.loss.class_weights = ()  # of label maps: of each class's pixels; () for 1
    c.loss.label_smoothing = 0.0
    # Late self-distillation: the last exit teaches the earlier ones after this share
    # of the run. distill_form "published" is EENet's literal form (see losses.py).
    c.loss.distill_weight = 0.01
    c.loss.distill_temperature = 3.0
    c.loss.distill_start = 0.75
    c.loss.distill_form = "per_sample"

    c.gates = ml_collections.ConfigDict()
    # What LEENet's gates read of the maps that exits read: "average" or "max" over the
    # map, "both", "bins" (averages of its quarters) or "flat" (all of it, published,
    # and large); "" keeps nothing for gates.
    c.gates.inputs = ""
    # Weight of cost against error in [0, 1], of the gates that training ends with;
    # evaluation has gates for all. --alpha is short for it.
    c.gates.alpha = 0.5

    c.eval = ml_collections.ConfigDict()
    c.eval.batch_size = 512  # over all devices
    # Training samples whose mean |logit| at each exit is kept with the predictions,
    # for Predictive Exit's published rules; 0 keeps nothing.
    c.eval.train_samples = 0
    return c
