"""Text sets by name: TFDS sets and one's own, split and turned into ids."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from eenet_jax.data import text, text_reader
from eenet_jax.errors import UserError

WORDS = "zero one two three four five six seven eight nine".split()
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
SPLITS = {
    "sst2": {"train": 40, "validation": 12, "test": 6},
    "sst2_sentence": {"train": 20, "validation": 8, "test": 10},
    "ag_news_subset": {"train": 40, "test": 12},
}


def _example(split: str, i: int, columns: tuple[str, ...], num_classes: int):
    """Text i of a split, its digits as words; every third has an empty title."""
    words = [split[:2], *(WORDS[int(digit)] for digit in str(i))]
    record = {"label": i % num_classes}
    if len(columns) == 2:
        record["title"] = "" if i % 3 == 0 else words.pop(0)
    return record | {columns[-1]: " ".join(words)}


def _write(data_dir: pathlib.Path, name: str, **options) -> None:
    """Writes a set as TFDS stores it; ``glue=True`` as "glue/sst2", labels hidden."""
    glue, columns = options.get("glue"), text_reader.TFDS[name].columns
    num_classes = options.get("num_classes", text_reader.TFDS[name].num_classes)
    splits = options.get("splits", SPLITS[name])

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="sst2")] if glue else []

        def _info(self):
            features = {column: tfds.features.Text() for column in columns}
            label = tfds.features.ClassLabel(num_classes=num_classes)
            if options.get("class_names"):
                label = tfds.features.ClassLabel(names=options["class_names"])
            features = tfds.features.FeaturesDict(features | {"label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {k: self._generate_examples(k, n) for k, n in splits.items()}

        def _generate_examples(self, split, size):
            for i in range(size):
                record = _example(split, i, columns, num_classes)
                if glue and split == "test":
                    record["label"] = -1
                yield i, record | options.get("change", {})

    Tiny.name = "glue" if glue else options.get("stored_as", name)
    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


def _expected(name: str, split: str) -> set[tuple[str, int]]:
    facts = text_reader.TFDS[name]
    pairs = set()
    for i in range(SPLITS[name][split]):
        record = _example(split, i, facts.columns, facts.num_classes)
        joined = " ".join(record[c] for c in facts.columns).strip()
        pairs.add((joined, record["label"]))
    return pairs


@pytest.fixture
def tokenizer(tmp_path):
    """A directory with a vocab.txt of the digits' words and the splits' names."""
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    content = "\n".join([*VOCAB, "tr", "va", "te"])
    (directory / "vocab.txt").write_text(content)
    return directory


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sst2", {}),
        ("sst2", {"glue": True, "class_names": ["negative", "positive"]}),
        ("sst2_sentence", {}),
        ("ag_news_subset", {"class_names": ["World", "Sports", "Business", "Sci"]}),
    ],
)
def test_read_tfds(tmp_path, name, options):
    _write(tmp_path, name, **options)
    parts, class_names = text_reader.read_tfds(name, tmp_path)
    facts = text_reader.TFDS[name]
    assert set(parts) == set(facts.parts)
    for part, (texts, labels) in parts.items():
        assert labels.dtype == np.int32
        pairs = list(zip(texts, labels.tolist(), strict=True))
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == _expected(name, facts.parts[part])
    names = options.get("class_names")
    assert class_names == (tuple(names) if names else None)


def test_sets_as_agreed():
    facts = text_reader.TFDS
    assert facts["sst2"].parts["test"] == "validation"
    assert "val" not in facts["sst2"].parts
    assert facts["sst2_sentence"].parts["val"] == "validation"
    assert facts["ag_news_subset"].val_size == 10_000


def test_load_draws_validation_from_train(tmp_path, tokenizer):
    _write(tmp_path, "ag_news_subset")
    options = {"data_dir": str(tmp_path), "tokenizer": tokenizer, "val_size": 8}
    data = text.load_text("ag_news_subset", **options)
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [32, 8, 12]
    assert np.bincount(data.val.labels).tolist() == [2] * 4
    assert data.name == "ag_news_subset"
    assert data.num_classes == 4 and data.class_names is None
    for part in (data.train, data.val, data.test):
        assert part.ids.dtype == part.lengths.dtype == part.labels.dtype == np.int32
        assert part.ids.shape == (len(part.labels), part.lengths.max())
        mask = np.arange(part.ids.shape[1])[None] < part.lengths[:, None]
        assert (part.ids[mask] > 0).all() and (part.ids[~mask] == 0).all()
    rows = {tuple(row) for p in (data.train, data.val) for row in p.ids.tolist()}
    assert len({tuple(x for x in row if x) for row in rows}) == 40
    again = text.load_text("ag_news_subset", **options)
    np.testing.assert_array_equal(again.val.ids, data.val.ids)
    other = text.load_text("ag_news_subset", **options, seed=1)
    assert not np.array_equal(other.val.ids, data.val.ids)
    with pytest.raises(UserError, match="data.val_size=40 must be from 1 to 39"):
        text.load_text("ag_news_subset", **options | {"val_size": 40})


def test_own_validation_part_is_kept(tmp_path, tokenizer):
    _write(tmp_path, "sst2_sentence")
    data = text.load_text(
        "sst2_sentence", data_dir=tmp_path, tokenizer=tokenizer, val_size=3
    )
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [20, 8, 10]
    va = len(VOCAB) + 1
    assert (data.val.ids[:, 1] == va).all() and not (data.train.ids == va).any()


def test_load_csv(tmp_path, tokenizer):
    rows = "".join(f"{word} one,{'yn'[i % 2]}\n" for i, word in enumerate(WORDS * 2))
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("words,answer\n" + rows)
    data = text.load_text(
        "csv",
        data_dir=tmp_path,
        tokenizer=tokenizer / "vocab.txt",
        max_length=3,
        text_columns=("words",),
        label_column="answer",
        vocab_size=len(VOCAB) + 3,
    )
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == [18, 2, 20]
    assert data.class_names == ("n", "y") and data.num_classes == 2
    assert data.test.ids[:2].tolist() == [[2, 4, 3], [2, 5, 3]]  # [CLS] word [SEP]
    assert data.test.labels[:2].tolist() == [1, 0]
    with pytest.raises(UserError, match="17 tokens, but the model's vocab_size=16"):
        text.load_text("csv", data_dir=tmp_path, tokenizer=tokenizer, vocab_size=16)


def test_check_finds_what_is_missing_without_reading(tmp_path, tokenizer):
    def refused(name, data_dir, message, given=tokenizer):
        for look in (text.check_text, text.load_text):
            with pytest.raises(UserError, match=message):
                look(name, data_dir=data_dir, tokenizer=given)

    refused("imdb", tmp_path, "unknown data.name='imdb' of .*ag_news_subset, csv, sst2")
    refused("csv", tmp_path, "has no train.csv or train.tsv")
    for name in text_reader.TFDS:
        command = f"python -m eenet_jax.data.prepare {name} --data_dir={tmp_path}"
        refused(name, tmp_path, f"data.name='{name}' is not prepared .*: {command}")
    (tmp_path / "train.csv").touch()
    (tmp_path / "test.csv").touch()
    text.check_text("csv", data_dir=tmp_path, tokenizer=tokenizer)
    refused("csv", tmp_path, "data.tokenizer='' is no file", given="")


def test_glue_goes_before_a_directory_of_the_same_name(tmp_path):
    for directory in ("sst2", "glue/sst2"):
        info = tmp_path / directory / "1.0.0" / "dataset_info.json"
        info.parent.mkdir(parents=True)
        info.write_text(json.dumps({"fileFormat": "array_record"}))
        assert text_reader.find("sst2", tmp_path) == info.parent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"train": 4}}, "no examples in test, validation, only in train;"),
        ({"num_classes": 3}, "has 3 classes, but sst2_sentence has 2; set data.dir to"),
        ({"change": {"label": -1}}, r"'train' go from -1 to -1; .* in 0\.\.1: prepare"),
        (
            {"change": {"sentence": b"\xff"}},
            "cannot read .*0xff.*; remove .*prepare s",
        ),
    ],
)
def test_other_content_is_refused(tmp_path, options, message):
    _write(tmp_path, "sst2_sentence", **options)
    with pytest.raises(UserError, match=message):
        text_reader.read_tfds("sst2_sentence", tmp_path)


def test_another_set_is_refused(tmp_path, monkeypatch):
    _write(tmp_path, "sst2_sentence", stored_as="ag_news_subset")
    with pytest.raises(UserError, match="has no title and no description, only label,"):
        text_reader.read_tfds("ag_news_subset", tmp_path)


@pytest.mark.parametrize("keep", [None, 0, 100])
def test_broken_records_are_refused(tmp_path, keep):
    _write(tmp_path, "sst2_sentence")
    (file,) = (tmp_path / "sst2_sentence" / "2.0.0").glob("*-train.array_record*")
    if keep is None:
        file.unlink()
    else:
        os.truncate(file, keep)
    message = "cannot read .*; remove it .*prepare sst2_sentence --data_dir="
    with pytest.raises(UserError, match=message):
        text_reader.read_tfds("sst2_sentence", tmp_path)


def test_reading_needs_no_tensorflow(tmp_path, tokenizer, root):
    _write(tmp_path, "sst2", glue=True)
    script = f"""
import sys
from eenet_jax.data import text
assert "tokenizers" not in sys.modules and "tensorflow_datasets" not in sys.modules
options = {{"data_dir": "{tmp_path}", "tokenizer": "{tokenizer}", "val_size": 10}}
assert len(text.load_text("sst2", **options).test.labels) == 12
assert "tensorflow" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sst2_sentence", [6920, 872, 1821]),
    ],
)
def test_real_sets(shared, tmp_path, tokenizer, name, sizes):
    script = shared / "data" / "make_tfds.py"
    command = [sys.executable, str(script), "--out", str(tmp_path), name]
    subprocess.run(command, check=True, capture_output=True)
    data = text.load_text(name, data_dir=tmp_path, tokenizer=tokenizer)
    assert [len(p.labels) for p in (data.train, data.val, data.test)] == sizes
    assert data.class_names[0] == ("World" if "news" in name else "negative")
