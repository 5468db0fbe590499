"""PyTorch's names for BERT: the published weights' logits, and Hugging Face's forms."""

import functools
import json
import math
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eenet_jax.backbones import bert
from eenet_jax.backbones.staged import Backbone
from eenet_jax.backbones.torch_names import bert as torch_names
from eenet_jax.errors import UserError

# Compiling costs most of a test's time, and these run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TINY = {
    "num_layers": 2,
    "hidden": 16,
    "num_heads": 2,
    "intermediate": 24,
    "vocab_size": 30,
    "max_positions": 12,
}


def _backbone(module) -> Backbone:
    return Backbone("bert", len(module.heads), 3, "float32", module)


def _shapes(backbone):
    return jax.eval_shape(backbone.init, jax.random.key(0), backbone.example())


def _load(form, backbone, state_dict):
    """Fills a network by one format's names; ``None`` where it has none."""
    naming, used = form.naming(backbone.module), []

    def take(path, leaf):
        names = tuple(entry.key for entry in path[1:])
        key = naming(names)
        if key is None:
            return None
        used.append(key)
        value = np.asarray(state_dict[key], np.float32)
        value = value.T if names[-1] == "kernel" else value
        assert value.shape == leaf.shape, key
        return value

    variables = jax.tree_util.tree_map_with_path(take, _shapes(backbone))
    ignored = re.compile("|".join(form.ignored))
    assert len(used) == len(set(used))
    assert set(used) == {key for key in state_dict if not ignored.fullmatch(key)}
    return variables


def _recipe(shared, wanted=lambda name: True):
    """Builds the fixture's tensors; its README has the recipe."""
    folder = shared / "fixtures" / "parity" / "bert_4"
    tensors = {}
    for name, shape, kind in json.loads((folder / "recipe.json").read_text())[
        "tensors"
    ]:
        if not wanted(name):
            continue
        rng = np.random.default_rng([0, zlib.crc32(name.encode())])
        noise = rng.standard_normal(shape)
        if kind == "ln":
            noise *= 0.1
            noise += name.endswith("weight")
        else:
            noise *= math.sqrt(1 / shape[1]) if kind == "linear" else 0.05
        tensors[name] = noise.astype(np.float32)
    return tensors, np.load(folder / "golden.npz")


@pytest.mark.parametrize("num_layers", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_logits_are_the_published_systems(shared, num_layers):
    exits = tuple(range(3, num_layers, 3))
    backbone = _backbone(bert.bert(2, num_layers=num_layers, exits=exits))

    def wanted(name):
        part = re.search(r"(layer|poolers|classifiers)\.(\d+)\.", name)
        limit = num_layers if part and part[1] == "layer" else len(exits) + 1
        return not part or int(part[2]) < limit

    state_dict, golden = _recipe(shared, wanted)
    variables = _load(torch_names.EENET, backbone, state_dict)
    ids, mask = golden["input"].astype(np.int32), golden["attention_mask"]
    apply = jit(lambda v, x: backbone.apply(v, x)[0])
    masked = apply(variables, {"ids": ids, "mask": mask})
    unmasked = apply(variables, {"ids": ids, "mask": np.ones_like(mask)})
    for k in range(backbone.num_exits):
        for logits, key in ((masked, "masked_logits"), (unmasked, "logits")):
            expected = golden[f"{key}_{k}"]
            difference = np.abs(logits[k] - expected).max()
            assert difference < 1e-4 * np.abs(expected).max(), (key, k)
    assert np.abs(masked[0, 1] - unmasked[0, 1]).max() > 1e-3


def test_names_and_shapes_are_all_the_published_ones(shared):
    folder = shared / "fixtures" / "parity" / "bert_4"
    tensors = json.loads((folder / "recipe.json").read_text())["tensors"]
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape, _ in tensors}
    empty["bert.embeddings.position_ids"] = np.zeros((1, 512))
    _load(torch_names.EENET, _backbone(bert.bert_4(2)), empty)


def _classifier_state_dict(num_layers):
    """Random tensors under the keys of a fine-tuned Hugging Face classifier."""
    rng, width, inner = np.random.default_rng(0), 16, 24
    square, wide, narrow = (width, width), (inner, width), (width, inner)
    shapes = {
        "bert.embeddings.word_embeddings.weight": (30, width),
        "bert.embeddings.position_embeddings.weight": (12, width),
        "bert.embeddings.token_type_embeddings.weight": (2, width),
        "bert.embeddings.LayerNorm.weight": (width,),
        "bert.pooler.dense.weight": square,
        "classifier.weight": (3, width),
    }
    for i in range(num_layers):
        layer = f"bert.encoder.layer.{i}."
        for name in ("query", "key", "value"):
            shapes[f"{layer}attention.self.{name}.weight"] = square
        shapes[f"{layer}attention.output.dense.weight"] = square
        shapes[f"{layer}attention.output.LayerNorm.weight"] = (width,)
        shapes[f"{layer}intermediate.dense.weight"] = wide
        shapes[f"{layer}output.dense.weight"] = narrow
        shapes[f"{layer}output.LayerNorm.weight"] = (width,)
    biases = {
        key.replace("weight", "bias"): shape[:1]
        for key, shape in shapes.items()
        if "_embeddings" not in key
    }
    shapes |= biases
    return {key: 0.4 * rng.standard_normal(shape) for key, shape in shapes.items()}


@pytest.mark.slow
def test_exits_at_any_layers_leave_the_last_exit_as_it_is():
    state_dict = _classifier_state_dict(3)
    rng = np.random.default_rng(1)
    x = {"ids": rng.integers(0, 30, (2, 6)), "mask": np.ones((2, 6))}
    last = []
    for exits in ((), (1, 2)):
        module = bert.bert(3, **{**TINY, "num_layers": 3}, exits=exits)
        backbone = _backbone(module)
        variables = _load(torch_names.HF_CLASSIFIER, backbone, state_dict)
        for part, tree in variables["params"].items():
            fresh = [leaf is None for leaf in jax.tree.leaves(tree, is_leaf=_is_none)]
            early = part in {f"heads_{k}" for k in range(len(exits))}
            assert all(fresh) if early else not any(fresh)
        variables = jax.tree.map(
            lambda leaf, like: jnp.zeros(like.shape) if leaf is None else leaf,
            variables,
            _shapes(backbone),
            is_leaf=_is_none,
        )
        logits = jit(lambda v, x, b=backbone: b.apply(v, x)[0])(variables, x)
        assert logits.shape == (len(exits) + 1, 2, 3)
        last.append(logits[-1])
    assert jnp.abs(last[0]).max() > 0.1
    np.testing.assert_allclose(last[1], last[0], rtol=1e-5, atol=1e-6)


def _is_none(leaf) -> bool:
    return leaf is None


def _plain_keys(num_layers, prefix, *, pooler=True, old_norms=False):
    """Keys that a Hugging Face encoder has beside a classifier's."""
    keys = set()
    for key in _classifier_state_dict(num_layers):
        if key.startswith("classifier") or ("pooler" in key and not pooler):
            continue
        if old_norms:
            key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
            key = key.replace("LayerNorm.bias", "LayerNorm.beta")
        keys.add(prefix + key.removeprefix("bert."))
    return keys


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (torch_names.HF, {"prefix": "bert."}),
        (torch_names.HF_OLD_NORMS, {"prefix": "bert.", "old_norms": True}),
        (torch_names.HF_NO_POOLER, {"prefix": "bert.", "pooler": False}),
        (torch_names.HF_ENCODER, {"prefix": ""}),
        (torch_names.HF_ENCODER_NO_POOLER, {"prefix": "", "pooler": False}),
    ],
)
def test_plain_encoders_fill_all_but_the_new_heads(form, options):
    backbone = _backbone(bert.minilm(2))
    naming, found, fresh = form.naming(backbone.module), set(), set()
    leaves = jax.tree_util.tree_leaves_with_path(_shapes(backbone))
    for path, _ in leaves:
        names = tuple(entry.key for entry in path[1:])
        key = naming(names)
        (fresh if key is None else found).add(names[:2] if key is None else key)
    assert found == _plain_keys(6, **options)
    new = {(f"heads_{k}", name) for k in (0, 1) for name in ("pooler", "classifier")}
    new.add(("heads_2", "classifier"))
    assert fresh == new | (
        set() if options.get("pooler", True) else {("heads_2", "pooler")}
    )
    ignored = re.compile("|".join(form.ignored))
    extra = [f"{options['prefix']}embeddings.position_ids", "cls.predictions.bias"]
    assert all(ignored.fullmatch(key) for key in extra)
    assert not any(ignored.fullmatch(key) for key in found)
    assert not any(re.fullmatch(form.classes_key, key) for key in found)


def test_all_formats_are_listed_and_find_the_classes():
    assert len(torch_names.FORMATS) == len(set(torch_names.FORMATS)) == 7
    assert re.fullmatch(torch_names.EENET.classes_key, "classifiers.3.weight")
    assert re.fullmatch(torch_names.HF_CLASSIFIER.classes_key, "classifier.bias")


MINILM_CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}


def test_sizes_are_read_from_a_hugging_face_directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MINILM_CONFIG))
    sizes = torch_names.sizes_of(tmp_path)
    assert bert.bert(2, **sizes, exits=(2, 4)) == bert.minilm(2)


def test_heads_that_no_tensor_tells_of_are_compared(tmp_path):
    config = {**MINILM_CONFIG, "num_attention_heads": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = r"has num_heads=12, unlike .*model.options=\{'num_heads': 6\}"
    with pytest.raises(UserError, match=message):
        torch_names.check_sizes(bert.minilm(2), tmp_path)
    torch_names.check_sizes(bert.bert(2, **torch_names.sizes_of(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type='roberta' is not supported; .*'bert'"),
        ({"model_type": None}, "model_type=None is not supported"),
        ({"hidden_act": "gelu_new"}, "hidden_act='gelu_new' .* must be 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_.* must be 'absolute'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 is not supported"),
        ({"is_decoder": True}, "is_decoder=True is not supported"),
        ({"vocab_size": None}, "vocab_size=None must be a positive integer"),
        ({"hidden_size": 384.0}, "hidden_size=384.0 must be a positive integer"),
    ],
)
def test_configs_of_other_encoders_are_refused(changes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**MINILM_CONFIG, **changes}))
    with pytest.raises(UserError, match=f"config.json: {message}"):
        torch_names.sizes_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not there"),
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
    ],
)
def test_broken_configs_are_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json {message}"):
        torch_names.sizes_of(tmp_path)
