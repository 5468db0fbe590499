"""SST-2 and AG News converted from small tables of their authors' forms."""

import csv
import io
import lzma
import tarfile
import zipfile

import pytest
import tensorflow_datasets as tfds

from eenet_jax.data import prepare
from eenet_jax.errors import UserError

PHRASES = [(f"a {i}. phrase, \"said\" 'so' \u0085 ", i % 3 % 2) for i in range(12)]
NEWS = [(1 + i % 4, f"Title {i}", f'He "said", {i}\\nthen\n left') for i in range(9)]


def _tsv(rows) -> str:
    return "sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows)


def _csv(rows) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _stored(directory, split: str) -> list[dict]:
    return list(tfds.builder_from_directory(directory).as_data_source(split))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_sst2_archive(tmp_path, line_end):
    source = tmp_path / "SST-2.zip"
    with zipfile.ZipFile(source, "w") as archive:
        train, dev = (_tsv(x).replace("\n", line_end) for x in (PHRASES, PHRASES[:3]))
        archive.writestr("SST-2/train.tsv", train)
        archive.writestr("SST-2/dev.tsv", dev)
        archive.writestr("SST-2/test.tsv", "index\tsentence\n0\tunlabelled\n")
    prepare.prepare("sst2", tmp_path, source)
    directory = tmp_path / "sst2" / "2.0.0"
    for split, rows in (("train", PHRASES), ("validation", PHRASES[:3])):
        stored = sorted(_stored(directory, split), key=lambda x: x["idx"])
        assert [x["idx"] for x in stored] == list(range(len(rows)))
        assert [(x["sentence"].decode(), x["label"]) for x in stored] == rows
    info = tfds.builder_from_directory(directory).info
    assert info.features["label"].names == ["negative", "positive"]
    assert set(info.splits) == {"train", "validation"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "its first line is not 'sentence<TAB>label'"),
        (b"fine\t1\n", "its first line is not 'sentence<TAB>label'"),
        (
            b"sentence\tlabel\n",
            "sst2 has no examples in validation; give all",
        ),
        (b"sentence\tlabel\nfine\t1\nfine 1\n", "line 3 does not end in <TAB>0 or"),
        (b"sentence\tlabel\nfine\t2\n", "line 2 does not end in <TAB>0 or"),
        (b"sentence\tlabel\n\xff\t1\n", "dev.tsv: 'utf-8' codec can't decode"),
        (None, "has no dev.tsv; give SST-2.zip of GLUE or its directory"),
    ],
)
def test_damaged_sst2_is_refused(tmp_path, data, message):
    (tmp_path / "train.tsv").write_text(_tsv(PHRASES), newline="\n")
    if data is not None:
        (tmp_path / "dev.tsv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        prepare.prepare("sst2", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_sst2_sentences_have_three_labelled_parts(tmp_path):
    parts = {"train": PHRASES, "dev": PHRASES[:2], "test": PHRASES[1:3]}
    for name, rows in parts.items():
        text = _tsv(rows).partition("\n")[2]  # without a header
        (tmp_path / f"{name}.tsv").write_text(text, newline="\n")
    prepare.prepare("sst2_sentence", tmp_path / "out", tmp_path)
    directory = tmp_path / "out" / "sst2_sentence" / "1.0.0"
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        stored = sorted(_stored(directory, split), key=lambda x: x["idx"])
        assert [(x["sentence"].decode(), x["label"]) for x in stored] == parts[name]


def test_ag_news_archive(tmp_path):
    source = tmp_path / "ag_news_csv.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        for name, rows in (("train.csv", NEWS), ("test.csv", NEWS[:2])):
            data = _csv(rows).encode()
            info = tarfile.TarInfo(f"ag_news_csv/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    prepare.prepare("ag_news_subset", tmp_path, source)
    directory = tmp_path / "ag_news_subset" / "1.0.0"
    for split, rows in (("train", NEWS), ("test", NEWS[:2])):
        stored = {
            (x["label"] + 1, x["title"].decode(), x["description"].decode())
            for x in _stored(directory, split)
        }
        assert stored == set(rows)
    label = tfds.builder_from_directory(directory).info.features["label"]
    assert label.names == ["World", "Sports", "Business", "Sci/Tech"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'"0","a","b"\n', "row 1 is not a class 1..4, title, description"),
        (b'"1","a","b"\n"5","a","b"\n', "row 2 is not a class 1..4"),
        (b'"1","a"\n', "row 1 is not"),
        (b'"1","a","' + b"x" * 200_000 + b'"\n', "field larger than field limit"),
        (b"", "ag_news_subset has no examples in test"),
        (None, "has no test.csv; give ag_news_csv.tar.gz or its directory"),
    ],
)
def test_damaged_ag_news_is_refused(tmp_path, data, message):
    (tmp_path / "train.csv").write_text(_csv(NEWS))
    if data is not None:
        (tmp_path / "test.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        prepare.prepare("ag_news_subset", tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_real_tables(tmp_path, shared):
    (tmp_path / "train.tsv").write_text(_tsv(PHRASES), newline="\n")
    (tmp_path / "train.csv").write_text(_csv(NEWS))
    for stored, name in (("sst2/glue_dev", "dev.tsv"), ("agnews/test", "test.csv")):
        file = shared / "data" / f"{stored}.{name[-3:]}.xz"
        (tmp_path / name).write_bytes(lzma.decompress(file.read_bytes()))
    prepare.prepare("sst2", tmp_path, tmp_path)
    prepare.prepare("ag_news_subset", tmp_path, tmp_path)
    sst2 = _stored(tmp_path / "sst2" / "2.0.0", "validation")
    assert [sum(x["label"] == label for x in sst2) for label in (0, 1)] == [428, 444]
    news = _stored(tmp_path / "ag_news_subset" / "1.0.0", "test")
    assert [sum(x["label"] == label for x in news) for label in range(4)] == [1900] * 4
