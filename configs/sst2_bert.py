"""EENet's BERT-4 on SST-2 (WACV 2024), from bert-base-uncased.

    python -m eenet_jax.data.prepare sst2 --data_dir=DIR
    python train.py --config=configs/sst2_bert.py --config.data.dir=DIR \
        --config.init_from=BERT_DIR --config.data.tokenizer=BERT_DIR \
        --workdir=runs/sst2_bert

BERT_DIR is a Hugging Face directory with config.json, vocab.txt or tokenizer.json, and
model.safetensors. The labelled test part is the official validation part, as GLUE keeps
its test labels; ours is drawn from the training phrases.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config: the paper's recipe, with AdamW in the place of its SGD."""
    c = default.get_config()
    c.model.name = "bert_4"
    c.model.options = ml_collections.ConfigDict()

    c.data.name = "sst2"
    c.data.val_size = 5000
    c.data.max_length = 512
    c.data.num_buckets = 4

    c.train.batch_size = 16
    c.train.epochs = 20

    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 3e-5
    c.optimizer.weight_decay = 1e-4
    c.optimizer.clip_norm = 1.0
    c.schedule.name = "constant"
    c.schedule.warmup_epochs = 0.1

    c.eval.batch_size = 64
    return c
