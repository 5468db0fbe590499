"""Tokenizers: from either file, cut and padded, and refused when damaged."""

import json
import sys

import numpy as np
import pytest

from eenet_jax.data import text_tokens
from eenet_jax.errors import UserError

VOCAB = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] hello world hell ##o ##s cafe 你 好 , Hello café"
).split()
CLS, SEP = 2, 3


def _write(directory, tokens=VOCAB, **config):
    (directory / "vocab.txt").write_bytes(("\n".join(tokens) + "\n").encode())
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def _ids(tokenizer, text, max_length=512):
    ids, lengths = text_tokens.encode(tokenizer, [text], max_length)
    assert ids.shape == (1, lengths[0])
    return [VOCAB[i] for i in ids[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD", "hello , world"),
        ("Cafés worlds", "cafe ##s world ##s"),
        ("hellos\tz", "hello ##s [UNK]"),
        ("你好", "你 好"),
        ("[MASK] hello[SEP]", "[MASK] hello [SEP]"),
        ("o" * 101, "[UNK]"),
        ("", ""),
    ],
)
def test_vocab_file_makes_bert_s_wordpiece(tmp_path, text, expected):
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path))
    assert _ids(tokenizer, text) == ["[CLS]", *expected.split(), "[SEP]"]


def test_directory_file_and_line_ends_make_no_difference(tmp_path):
    file = _write(tmp_path) / "vocab.txt"
    expected = _ids(text_tokens.load_tokenizer(tmp_path), "hellos world")
    assert _ids(text_tokens.load_tokenizer(str(file)), "hellos world") == expected
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert _ids(text_tokens.load_tokenizer(file), "hellos world") == expected
    renamed = file.rename(tmp_path / "words.txt")
    assert _ids(text_tokens.load_tokenizer(renamed), "hellos world") == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"do_lower_case": True, "strip_accents": None}, "hello cafe 你 好"),
        ({"do_lower_case": False}, "Hello café 你 好"),
        ({"do_lower_case": False, "strip_accents": True}, "Hello cafe 你 好"),
        ({"strip_accents": False}, "hello café 你 好"),
        ({"tokenize_chinese_chars": False}, "hello cafe [UNK]"),
    ],
)
def test_tokenizer_config_switches_normalisation(tmp_path, config, expected):
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path, **config))
    assert _ids(tokenizer, "Hello café 你好")[1:-1] == expected.split()


def test_tokenizer_json_goes_first_without_its_own_cutting_and_padding(tmp_path):
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    _write(tmp_path, ["[UNK]", "[CLS]", "[SEP]"])
    loaded = text_tokens.load_tokenizer(tmp_path)
    assert loaded.truncation is None and loaded.padding is None
    assert _ids(loaded, "hellos") == ["[CLS]", "hello", "##s", "[SEP]"]
    assert text_tokens.find(tmp_path).name == "tokenizer.json"


def test_encode_pads_with_zeros_and_keeps_order(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tokens, "_CHUNK", 2)
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path))
    texts = ["hello", "", "hello world , hello", "world", "hellos"]
    ids, lengths = text_tokens.encode(tokenizer, texts, 512)
    assert ids.dtype == lengths.dtype == np.int32
    assert ids.tolist() == [
        [2, 5, 3, 0, 0, 0],
        [2, 3, 0, 0, 0, 0],
        [2, 5, 6, 13, 5, 3],
        [2, 6, 3, 0, 0, 0],
        [2, 5, 9, 3, 0, 0],
    ]
    assert lengths.tolist() == [3, 2, 6, 3, 4]
    ids, lengths = text_tokens.encode(tokenizer, [], 512)
    assert ids.shape == (0, 0) and lengths.shape == (0,)


def test_truncation_keeps_the_separator_and_is_undone(tmp_path):
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path))
    text = "hello world hello world"
    assert _ids(tokenizer, text, 4) == ["[CLS]", "hello", "world", "[SEP]"]
    assert _ids(tokenizer, text, 3) == ["[CLS]", "hello", "[SEP]"]
    assert len(_ids(tokenizer, text)) == 6


@pytest.mark.parametrize("max_length", [2, 1, 0, -1])
def test_no_room_for_text_is_refused(tmp_path, max_length):
    tokenizer = text_tokens.load_tokenizer(_write(tmp_path))
    with pytest.raises(UserError, match=f"max_length={max_length} leaves .* to 3 or"):
        text_tokens.encode(tokenizer, ["hello"], max_length)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"data.tokenizer='' is no file or directory; give .* BERT"),
        (None, r"data.tokenizer='' is no file or directory; give .* BERT"),
        ("absent", "absent' is no file or directory; give the directory of a BERT"),
        (".", "holds neither; give .* tokenizer.json or vocab.txt, or one of"),
    ],
)
def test_missing_tokenizer_is_refused(tmp_path, path, message):
    given = path and tmp_path / path
    with pytest.raises(UserError, match=f"data.tokenizer=.*{message[-30:]}") as caught:
        text_tokens.load_tokenizer(given)
    assert caught.match(message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"", "tokenizer.json: EOF .*; get the file again, or give"),
        ("tokenizer.json", b"{", "cannot use .*tokenizer.json: "),
        ("tokenizer.json", b"{}", "tokenizer.json: Model missing"),
        ("tokenizer.json", b"\xff", "tokenizer.json: .*can't decode byte 0xff"),
        ("vocab.txt", b"", r"vocab.txt: no line is \[UNK\] or \[CLS\] or \[SEP\]"),
        ("vocab.txt", b"[UNK]\n[CLS]\nab", r"vocab.txt: no line is \[SEP\]; get"),
        ("vocab.txt", b"[UNK]\n\xfe", "vocab.txt: .*can't decode byte 0xfe"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json: Expecting"),
        ("tokenizer_config.json", b"[]", "it is a JSON list, not an object"),
        ("tokenizer_config.json", b'{"do_lower_case": 1}', "do_lower_case=1 is not tr"),
    ],
)
def test_damaged_file_is_refused(tmp_path, name, content, message):
    _write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"data.tokenizer: .*{message}"):
        text_tokens.load_tokenizer(tmp_path)


def test_vocabulary_must_fit_the_model(tmp_path):
    size = len(VOCAB)
    text_tokens.load_tokenizer(_write(tmp_path), vocab_size=size)
    message = (
        f"has {size} tokens, but .* vocab_size={size - 1}; .*set vocab_size={size}"
    )
    with pytest.raises(UserError, match=message):
        text_tokens.load_tokenizer(tmp_path, vocab_size=size - 1)


def test_tokenizer_without_special_tokens_is_refused(tmp_path):
    stored = json.loads(text_tokens.load_tokenizer(_write(tmp_path)).to_str())
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(stored | {"post_processor": None}))
    with pytest.raises(UserError, match=r"nothing around a text; .*\[CLS\] text \[SEP"):
        text_tokens.load_tokenizer(file)


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match="install with: pip install tokenizers"):
        text_tokens.load_tokenizer(_write(tmp_path))
