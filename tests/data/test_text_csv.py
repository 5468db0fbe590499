"""A user's own texts: what the files may hold, and every way they may be wrong."""

import numpy as np
import pytest

from eenet_jax.data import text_csv
from eenet_jax.errors import UserError

GOOD = "text,label\ngood film,1\nbad film,0\n"


def _write(directory, **files):
    files = {"train": GOOD, "test": GOOD} | files
    for name, content in files.items():
        name = name.replace("_", ".") if "_" in name else f"{name}.csv"
        data = content if isinstance(content, bytes) else content.encode()
        (directory / name).write_bytes(data)
    return directory


def test_numbers_are_classes(tmp_path):
    val = "label,id,text\n1,7,fine\n"
    parts, names, num_classes = text_csv.read_csv(_write(tmp_path, val=val))
    assert names is None and num_classes == 2 and set(parts) == {"train", "val", "test"}
    texts, labels = parts["train"]
    assert texts == ["good film", "bad film"] and labels.tolist() == [1, 0]
    assert labels.dtype == np.int32
    assert parts["val"][0] == ["fine"] and parts["val"][1].tolist() == [1]


def test_names_are_sorted_to_classes(tmp_path):
    train = "text,label\na,sport\nb, politics \nc,10 things\n"
    test = "text,label\nd,sport\n"
    parts, names, num_classes = text_csv.read_csv(
        _write(tmp_path, train=train, test=test)
    )
    assert names == ("10 things", "politics", "sport") and num_classes == 3
    assert parts["train"][1].tolist() == [2, 1, 0]
    assert parts["test"][1].tolist() == [2] and set(parts) == {"train", "test"}


def test_columns_are_joined_and_csv_quotes_hide_commas_and_lines(tmp_path):
    train = (
        '\ufefftitle,body,y\r\n"A, b","say ""hi""\nnow",01\r\n\r\n,only body,+0\r\n'
        '"",,0\r\n'
    )
    parts, _, _ = text_csv.read_csv(
        _write(tmp_path, train=train, test=train),
        text_columns=("title", "body"),
        label_column="y",
    )
    assert parts["train"][0] == ['A, b say "hi"\nnow', "only body", ""]
    assert parts["train"][1].tolist() == [1, 0, 0]


def test_tsv_splits_at_tabs_alone(tmp_path):
    train = 'text\tlabel\n"Wow, he said\t1\n\'s "fine"\t0\n'
    directory = _write(tmp_path, train_tsv=train)
    (directory / "train.csv").unlink()
    parts, _, _ = text_csv.read_csv(directory)
    assert parts["train"][0] == ['"Wow, he said', '\'s "fine"']
    assert parts["test"][0] == ["good film", "bad film"]


def test_missing_files_are_refused(tmp_path):
    def refused(message, data_dir=tmp_path):
        with pytest.raises(UserError, match=message):
            text_csv.read_csv(data_dir)

    refused("data.dir='' is no directory; data.name='csv' needs", "")
    refused("data.dir='' is no directory; data.name='csv' needs", None)
    refused("absent' is no directory; .* train.csv and test.csv", tmp_path / "absent")
    refused("has no train.csv or train.tsv; .* needs train and test, and takes val")
    _write(tmp_path)
    (tmp_path / "test.csv").unlink()
    refused("has no test.csv or test.tsv")
    _write(tmp_path, val_tsv=GOOD, val=GOOD)
    refused("has both val.csv and val.tsv; remove one")
    (tmp_path / "val.csv").unlink()
    refused("val.tsv has no column 'text'")  # a comma-separated .tsv


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("", "train.csv is empty; give it at least one example"),
        ("\n\n", "train.csv is empty"),
        ("text,label\n\n", "train.csv has no rows below its column names; give"),
        ("text\nx\n", "no column 'label' of data.label_column; .* names 'text'$"),
        ("a,label\nx,1\n", "no column 'text' of data.text_columns; .*'a', 'label'$"),
        ("text,label,text\n", "has two columns 'text' of data.text_columns"),
        (GOOD + "a,b,1\n", "train.csv, line 4: 3 fields, but the first .* 2 columns"),
        (GOOD + "a\n", "train.csv, line 4: 1 fields, .*; put texts with commas in"),
        (GOOD + '"a\nb",0\n\nc\n', "train.csv, line 7: 1 fields"),
        (GOOD + '"a" b,1\n', "train.csv, line 4: ',' expected after '\"'; put"),
        (GOOD + '"a,1\nb,0\n', "train.csv, line 4: unexpected end of data; put"),
        (GOOD + "a, \n", "train.csv, line 4: 'label' is empty; give every example"),
        (GOOD + "a,x\n", "train.csv, line 4: label 'x' is not a number from 0"),
        ("text,label\na,x\nb,1\n", "train.csv, line 2: label 'x' is not a number"),
        (GOOD + "a,1.5\n", "line 4: label '1.5' is not a number .* all as names"),
        (GOOD + "a,-1\n", "train.csv, line 4: label '-1' is not a number from 0"),
        (GOOD + "a,4\n", "train.csv: no label is 2, but one is 4; number the classes"),
        ("text,label\na,1\nb,2\n", "train.csv: no label is 0, but one is 2"),
        ("text,label\na,0\nb,0\n", "train.csv: all labels are '0'; give at least two"),
        ("text,label\na,x\nb,x\n", "train.csv: all labels are 'x'; give at least two"),
        (GOOD.encode() + b"\xe9t\xe9,1\n", "line 4: byte 0xe9 is not UTF-8; save"),
        (GOOD + f"{'a' * 140_000},1\n", "train.csv, line 4: field larger than"),
    ],
)
def test_wrong_content_is_refused(tmp_path, train, message):
    _write(tmp_path, train=train)
    with pytest.raises(UserError, match=message):
        text_csv.read_csv(tmp_path)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (GOOD + "a,2\n", "test.csv, line 4: label '2' is not among the 2 of train.csv"),
        (GOOD + "a,good\n", "test.csv, line 4: label 'good' is not a number from 0"),
        ("text,label\n", "test.csv has no rows below"),
    ],
)
def test_test_labels_must_be_those_of_train(tmp_path, test, message):
    with pytest.raises(UserError, match=message):
        text_csv.read_csv(_write(tmp_path, test=test))
    with pytest.raises(UserError, match=message.replace("test", "val")):
        text_csv.read_csv(_write(tmp_path, test=GOOD, val=test))


def test_test_names_must_be_those_of_train(tmp_path):
    train = "text,label\na,no\nb,yes\n"
    _write(tmp_path, train=train, test=train + "c,maybe\n")
    with pytest.raises(UserError, match="line 4: label 'maybe' is not among the 2 of"):
        text_csv.read_csv(tmp_path)


def test_ragged_tsv_says_what_a_tsv_cannot_hold(tmp_path):
    _write(tmp_path, val_tsv="text\tlabel\na\tb\t1\n")
    message = "val.tsv, line 2: 3 fields, .*; a .tsv text cannot hold tabs or line ends"
    with pytest.raises(UserError, match=message):
        text_csv.read_csv(tmp_path)


@pytest.mark.parametrize("text_columns", [(), ("text", "label")])
def test_wrong_columns_are_refused(tmp_path, text_columns):
    message = "data.text_columns=.* must name a column or more, and not .*'label'"
    with pytest.raises(UserError, match=message):
        text_csv.read_csv(_write(tmp_path), text_columns=text_columns)
