"""EENet's BERT-4 on AG News (WACV 2024), from bert-base-uncased.

    python -m eenet_jax.data.prepare ag_news_subset --data_dir=DIR
    python train.py --config=configs/agnews_bert.py --config.data.dir=DIR \
        --config.init_from=BERT_DIR --config.data.tokenizer=BERT_DIR \
        --workdir=runs/agnews_bert
"""

import ml_collections

from configs import sst2_bert


def get_config() -> ml_collections.ConfigDict:
    """Returns the config: the recipe is that of SST-2."""
    c = sst2_bert.get_config()
    c.data.name = "ag_news_subset"
    c.data.val_size = 10_000
    return c
