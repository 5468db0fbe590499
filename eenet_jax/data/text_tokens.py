"""Texts to token ids: WordPiece through the ``tokenizers`` package."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from eenet_jax.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.json", "vocab.txt")  # in a directory the first of them is taken
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Names and defaults in tokenizer_config.json; accents None goes by lower-casing.
_NORMALIZER = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
_CHUNK = 1000  # texts encoded at a time


def find(path: str | os.PathLike[str] | None) -> pathlib.Path:
    """Finds the file that defines a tokenizer.

    Args:
      path: A ``tokenizer.json``, a ``vocab.txt``, or a directory with either.

    Returns:
      The file; in a directory ``tokenizer.json`` before ``vocab.txt``.

    Raises:
      UserError: If there is none.
    """
    given = pathlib.Path(path or "").expanduser()
    names = [given / name for name in FILES] if path and given.is_dir() else [given]
    for file in names:
        if file.is_file():
            return file
    reason = "holds neither" if len(names) > 1 else "is no file or directory"
    raise UserError(
        f"data.tokenizer={str(path or '')!r} {reason}; give the directory of a BERT "
        f"checkpoint with {' or '.join(FILES)}, or one of these files"
    )


def load_tokenizer(
    path: str | os.PathLike[str], *, vocab_size: int | None = None
) -> "Tokenizer":
    """Loads a tokenizer from what a BERT checkpoint has beside its weights.

    A ``tokenizer.json`` is used as it is, less its truncation and padding. A
    ``vocab.txt`` (one token a line, its id the line's number from 0) makes the
    WordPiece of bert-base-uncased: lower-cased, accents stripped, Chinese characters
    apart, ``[CLS] text [SEP]``. A ``tokenizer_config.json`` beside it can switch the
    three with ``do_lower_case``, ``strip_accents`` and ``tokenize_chinese_chars``.

    Args:
      path: As for ``find``.
      vocab_size: Rows of the model's embedding, None not to compare.

    Returns:
      The tokenizer, which neither truncates nor pads.

    Raises:
      UserError: If the ``tokenizers`` package or the file is missing, the file is
        damaged, an id does not fit ``vocab_size``, or an empty text has no token.
    """
    file = find(path)
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            "texts need the tokenizers package; install with: pip install tokenizers"
        ) from error
    if file.suffix == ".json":
        try:
            tokenizer = tokenizers.Tokenizer.from_str(_text(file))
        except UserError:
            raise
        except Exception as error:  # the package raises no other kind
            raise _damaged(file, error) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
    else:
        tokenizer = _wordpiece(file)
    size = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if vocab_size is not None and size > vocab_size:
        raise UserError(
            f"data.tokenizer={str(file)!r} has {size} tokens, but the model's "
            f"vocab_size={vocab_size}; give the tokenizer of the model's checkpoint, "
            f"or set vocab_size={size}"
        )
    if not tokenizer.encode("").ids:
        raise UserError(
            f"data.tokenizer={str(file)!r} puts nothing around a text; give one that "
            "makes it [CLS] text [SEP], for exits read the first token"
        )
    return tokenizer


def encode(
    tokenizer: "Tokenizer", texts: Sequence[str], max_length: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """Turns texts into token ids.

    A progress bar shows on a terminal when it takes longer than two seconds.

    Args:
      tokenizer: From ``load_tokenizer``; left without truncation.
      texts: N texts. An empty one becomes ``[CLS] [SEP]``.
      max_length: Most tokens a text may keep, with ``[CLS]`` and ``[SEP]``, which stay
        when the text's end is cut off.

    Returns:
      ``ids`` int32 ``[N, T]``, padded with 0, T the longest text's length; ``lengths``
      int32 ``[N]``, tokens of each text, at least 1.

    Raises:
      UserError: If ``max_length`` leaves no token of the text.
    """
    around = tokenizer.num_special_tokens_to_add(False)
    if max_length <= around:
        raise UserError(
            f"data.max_length={max_length} leaves no room for text beside {around} "
            f"special tokens; set it to {around + 1} or more (BERT takes up to 512)"
        )
    rows: list[np.ndarray] = []
    tokenizer.enable_truncation(max_length)
    try:
        with tqdm(
            total=len(texts),
            desc="tokenizing",
            unit=" texts",
            disable=None,
            delay=2,
            leave=False,
        ) as bar:
            for start in range(0, len(texts), _CHUNK):
                chunk = list(texts[start : start + _CHUNK])
                encodings = tokenizer.encode_batch(chunk)
                rows += [np.array(item.ids, np.int32) for item in encodings]
                bar.update(len(chunk))
    finally:
        tokenizer.no_truncation()
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), lengths.max(initial=0)), np.int32)
    ids[np.arange(ids.shape[1])[None] < lengths[:, None]] = np.concatenate(
        [np.empty(0, np.int32), *rows]
    )
    return ids, lengths


def _wordpiece(file: pathlib.Path) -> "Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    lines = _text(file).removesuffix("\n").split("\n")
    vocab = {line.removesuffix("\r"): i for i, line in enumerate(lines)}
    missing = [t for t in ("[UNK]", "[CLS]", "[SEP]") if t not in vocab]
    if missing:
        raise _damaged(file, f"no line is {' or '.join(missing)}")
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**_normalizer(file.parent))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = (("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"]))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    # One absent from the file would be added with an id that the model lacks.
    tokenizer.add_special_tokens([token for token in _SPECIAL if token in vocab])
    return tokenizer


def _normalizer(directory: pathlib.Path) -> dict[str, bool | None]:
    """Returns BertNormalizer's options, as tokenizer_config.json, if any, has them."""
    file = directory / "tokenizer_config.json"
    stored: Any = {}
    if file.is_file():
        try:
            stored = json.loads(_text(file))
        except ValueError as error:
            raise _damaged(file, error) from error
    if not isinstance(stored, dict):
        raise _damaged(file, f"it is a JSON {type(stored).__name__}, not an object")
    options = {}
    for key, (name, default) in _NORMALIZER.items():
        options[name] = stored.get(key, default)
        if not isinstance(options[name], bool) and options[name] is not default:
            raise _damaged(file, f"{key}={options[name]!r} is not true or false")
    return options


def _text(file: pathlib.Path) -> str:
    try:  # bytes, for in text mode a lone "\r" would end a line of vocab.txt
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: pathlib.Path, error: Exception | str) -> UserError:
    return UserError(
        f"data.tokenizer: cannot use {file}: {error}; get the file again, or give the "
        f"directory of a BERT checkpoint with {' or '.join(FILES)}"
    )
