"""A small text set for runs of tests."""

import csv
import pathlib

import numpy as np


def write_texts(folder: pathlib.Path) -> dict[str, object]:
    """Writes texts whose label is told by one word; returns the fields to read them."""
    words = ["good", "bad", *(f"w{i}" for i in range(20))]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    rng = np.random.default_rng(0)
    for part, size in (("train", 200), ("test", 60)):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["review", "mood"])
            for i in range(size):
                filling = rng.choice(words[2:], rng.integers(1, 30)).tolist()
                filling.insert(int(rng.integers(len(filling) + 1)), words[i % 2])
                writer.writerow([" ".join(filling), "yes" if i % 2 == 0 else "no"])
    return {
        "data__name": "csv",
        "data__dir": str(folder),
        "data__val_size": 40,
        "data__tokenizer": str(folder / "vocab.txt"),
        "data__text_columns": ("review",),
        "data__label_column": "mood",
    }
