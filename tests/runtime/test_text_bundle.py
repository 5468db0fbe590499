"""Bundles of text networks: with their tokenizer, in length buckets."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax import backbones, runtime
from eenet_jax.data import text_tokens
from eenet_jax.errors import UserError
from eenet_jax.runtime import answers
from eenet_jax.runtime.bundle import load_bundle
from eenet_jax.runtime.bundle_writer import export_bundle
from eenet_jax.runtime.export_inputs import ImageInputs, TextInputs
from eenet_jax.schedulers.policy import Policy

pytestmark = pytest.mark.slow
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film")
SIZE = {"num_layers": 2, "hidden": 8, "num_heads": 2, "intermediate": 16}
TEXTS = ["good film", "", "a good bad good bad good bad film", "Bad", "film film film"]


@pytest.fixture(scope="module")
def text_network():
    options = {**SIZE, "vocab_size": len(WORDS), "max_positions": 8}
    backbone = backbones.build("bert", num_classes=3, exits=(1,), **options)
    variables = jax.jit(backbone.init)(jax.random.key(0), backbone.example())
    # To tell texts apart.
    variables = jax.tree.map(lambda leaf: 10 * np.asarray(leaf), variables)
    return backbone, variables, Policy("max_prob", {}, jnp.array([0.445, -jnp.inf]))


@pytest.fixture(scope="module")
def text_folder(text_network, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("text")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    inputs = TextInputs((4, 8), text_tokens.load_tokenizer(tmp_path))
    folder, platforms = tmp_path / "bundle", ("cpu", "tpu")
    export_bundle(
        *(*text_network, folder), inputs=inputs, batch_sizes=[2], platforms=platforms
    )
    with pytest.raises(UserError, match="inputs are of kind 'image', but 'bert' reads"):
        other = ImageInputs(8, 8, (0.5,), (0.5,))
        export_bundle(*text_network, tmp_path / "other", inputs=other)
    return folder


def test_texts_of_a_file(text_network, text_folder, tmp_path):
    bundle = load_bundle(text_folder)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    stream = io.StringIO()
    assert answers.write_answers(bundle, tmp_path / "texts.txt", stream) == 5
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [row["input"] for row in rows] == TEXTS and "class_name" not in rows[0]
    tokenizer = text_tokens.load_tokenizer(text_folder / "tokenizer.json")
    ids, lengths = text_tokens.encode(tokenizer, TEXTS, 8)
    assert lengths.tolist() == [4, 2, 8, 3, 5]  # the third is cut
    mask = np.arange(8)[None] < lengths[:, None]
    found = bundle.predict({"ids": ids, "mask": mask})
    assert len(np.unique(found.exit_index)) == 2
    for length, batch in ((4, [0, 1]), (8, [2, 4])):
        x = {"ids": ids[batch, :length], "mask": mask[batch, :length]}
        expected = runtime.adaptive_predict(*text_network, x)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours[batch], theirs)
    assert [int(row["label"]) for row in rows] == found.label.tolist()
    assert [int(row["exit"]) - 1 for row in rows] == found.exit_index.tolist()
    carry, logits = bundle.stage(0, length=8)([ids, mask])
    assert logits.shape == (5, 3) and len(carry) == 2


def test_wrong_texts_are_refused(text_folder, tmp_path):
    bundle = load_bundle(text_folder)

    def refused(ids, mask, message):
        with pytest.raises(UserError, match=message):
            bundle.predict({"ids": np.array(ids), "mask": np.array(mask)})

    refused([[2, 9]], [[1, 1]], r'x\["ids"\] has 9, but .* ids 0 to 7; use .*tokenizer')
    refused([[2, 3]], [1, 1], r"of shape \[1, 2\] and .* \[2\]; both must be")
    refused([[2.0, 3.0]], [[1, 1]], "ids integers")
    refused([[2] * 9], [[1] * 9], "text 0 has 9 tokens, .* exported for up to 8; cut")
    with pytest.raises(UserError, match="the bundle reads texts"):
        bundle.predict(np.zeros((1, 2)))
    for name, data, message in (
        ("a.csv", b"good", "the bundle reads texts; give a .txt file"),
        ("a.txt", b"", "holds no text; give one a line"),
        ("b.txt", b"\xff\xfe", "b.txt is not UTF-8"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            answers.write_answers(bundle, tmp_path / name, io.StringIO())
    # Last, for it damages the bundle.
    file = text_folder / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"good", b"gold"))
    with pytest.raises(UserError, match="tokenizer.json was altered"):
        load_bundle(text_folder)
