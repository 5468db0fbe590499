"""BERT encoders with exits (Devlin et al. 2019): EENet's bert_4, and MiniLM's size.

An exit location L means "after the first L layers"; the last exit follows the last
layer and is not named. Texts are single: every token has type 0. Unlike EENet's
released model, padding is never attended to.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from eenet_jax.backbones.exits import check_exits
from eenet_jax.backbones.staged import StagedModule
from eenet_jax.backbones.text_heads import POOLS, PoolerHead, dense, truncated_normal
from eenet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
    """Sizes of an encoder, and the dropout rate of all its parts."""

    hidden: int
    num_heads: int
    intermediate: int
    vocab_size: int
    max_positions: int
    type_vocab: int
    dropout: float


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, LayerNorm, dropout: the stem."""

    spec: Spec
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Mapping[str, jax.Array], train: bool = False
    ) -> dict[str, jax.Array]:
        """Embeds a batch of texts.

        Args:
          x: ``{"ids": int [B, T], "mask": [B, T]}``; where the mask (bool, integer or
            float) is 0 there is padding.
          train: True for dropout.

        Returns:
          ``{"hidden": [B, T, D], "mask": bool [B, T]}``.

        Raises:
          UserError: If ``x`` is anything else, or T exceeds the positions there are.
        """
        ids, mask = _check_text(x, self.spec.max_positions)
        spec = self.spec
        hidden = _embed(spec.vocab_size, spec.hidden, "word")(ids)
        positions = jnp.arange(ids.shape[1])[None]
        hidden += _embed(spec.max_positions, spec.hidden, "position")(positions)
        types = jnp.zeros((1, 1), jnp.int32)
        hidden += _embed(spec.type_vocab, spec.hidden, "token_type")(types)
        hidden = _layer_norm(self.dtype, "norm")(hidden)
        hidden = nn.Dropout(spec.dropout)(hidden, deterministic=not train)
        return {"hidden": hidden, "mask": mask}


class SelfAttention(nn.Module):
    """Attention of all tokens to all real tokens, in float32 where it is a softmax."""

    spec: Spec
    dtype: Any

    @nn.compact
    def __call__(
        self, hidden: jax.Array, mask: jax.Array, train: bool = False
    ) -> jax.Array:
        num_heads, width = self.spec.num_heads, self.spec.hidden

        def project(name: str) -> jax.Array:  # [B, T, D] -> [B, T, heads, D / heads]
            y = dense(width, self.dtype, name)(hidden)
            return y.reshape(*y.shape[:2], num_heads, width // num_heads)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum(
            "bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32
        )
        scores /= (width // num_heads) ** 0.5
        # Finite: a row that is all padding attends evenly, and gives no NaN.
        padding = jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min)  # [B, T]
        weights = nn.softmax(scores + padding[:, None, None, :])
        weights = nn.Dropout(self.spec.dropout)(weights, deterministic=not train)
        context = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value)
        context = context.reshape(hidden.shape)
        return dense(width, self.dtype, "output")(context)


class Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each with a residual, then a norm."""

    spec: Spec
    dtype: Any

    @nn.compact
    def __call__(
        self, hidden: jax.Array, mask: jax.Array, train: bool = False
    ) -> jax.Array:
        spec, dtype = self.spec, self.dtype
        drop = nn.Dropout(spec.dropout, deterministic=not train)
        y = SelfAttention(spec, dtype, name="attention")(hidden, mask, train)
        hidden = _layer_norm(dtype, "attention_norm")(hidden + drop(y))
        y = dense(spec.intermediate, dtype, "intermediate")(hidden)
        y = dense(spec.hidden, dtype, "output")(nn.gelu(y, approximate=False))
        return _layer_norm(dtype, "output_norm")(hidden + drop(y))


class Segment(nn.Module):
    """The encoder layers of one stage, in order; the mask goes through unchanged."""

    layers: tuple[nn.Module, ...]

    def __call__(
        self, carry: dict[str, jax.Array], train: bool = False
    ) -> dict[str, jax.Array]:
        hidden, mask = carry["hidden"], carry["mask"]
        for layer in self.layers:
            hidden = layer(hidden, mask, train)
        return {"hidden": hidden, "mask": mask}


def bert(
    num_classes: int,
    *,
    exits: Sequence[int] | None = None,
    num_layers: int = 12,
    hidden: int = 768,
    num_heads: int = 12,
    intermediate: int = 3072,
    vocab_size: int = 30522,
    max_positions: int = 512,
    type_vocab: int = 2,
    dropout: float = 0.1,
    pool: str = "first",
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds a BERT encoder with exits; its sizes are BERT base's by default.

    Args:
      num_classes: C.
      exits: Locations, from 1; by default the ends of the quarters of the layers, or,
        where 4 does not divide their number, of the thirds, rounded.
      num_layers: Encoder layers.
      hidden: D, width of the hidden states, a multiple of ``num_heads``.
      num_heads: Attention heads.
      intermediate: Width inside the perceptrons.
      vocab_size: Token ids, 0 .. vocab_size - 1.
      max_positions: The longest text in tokens.
      type_vocab: Token types there are embeddings for; type 0 alone is used.
      pool: What the heads read: the state of the "first" token, as BERT's do, or the
        "mean" of all tokens, which early layers tell more with.
      dropout: Rate in [0, 1) for hidden states, attention weights and classifiers.
      dtype: Compute type; softmax and LayerNorm are computed in float32 all the same.

    Raises:
      UserError: If a size, the dropout rate or an exit is not possible.
    """
    spec = Spec(
        hidden, num_heads, intermediate, vocab_size, max_positions, type_vocab, dropout
    )
    _check_sizes(num_layers, spec)
    if pool not in POOLS:
        raise UserError(f"model.options.pool={pool!r} is unknown; choose from {POOLS}")
    exits = _default_exits(num_layers) if exits is None else exits
    # Before layer 1 the first token is the same in every text.
    exits = check_exits(exits, num_layers, first=1, what="layer")
    layers = [Layer(spec, dtype) for _ in range(num_layers)]
    bounds = [0, *exits, num_layers]
    stages = tuple(Segment(tuple(layers[a:b])) for a, b in itertools.pairwise(bounds))
    heads = tuple(PoolerHead(num_classes, dropout, pool, dtype) for _ in stages)
    stem = Embeddings(spec, dtype)
    return StagedModule(stem, stages, heads, "text", vocab_size=vocab_size)


def bert_4(
    num_classes: int,
    *,
    exits: Sequence[int] = (3, 6, 9),
    dropout: float = 0.1,
    pool: str = "first",
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds EENet's BERT-4: BERT base, exits after layers 3, 6, 9 and 12."""
    return bert(num_classes, exits=exits, dropout=dropout, pool=pool, dtype=dtype)


def minilm(
    num_classes: int,
    *,
    exits: Sequence[int] = (2, 4),
    dropout: float = 0.1,
    pool: str = "first",
    dtype: Any = jnp.float32,
) -> StagedModule:
    """Builds MiniLM-L6-H384 (Wang et al. 2020), exits after layers 2, 4 and 6."""
    return bert(
        num_classes,
        exits=exits,
        num_layers=6,
        hidden=384,
        num_heads=12,
        intermediate=1536,
        dropout=dropout,
        pool=pool,
        dtype=dtype,
    )


def _check_sizes(num_layers: int, spec: Spec) -> None:
    sizes = {"num_layers": num_layers, **dataclasses.asdict(spec)}
    dropout = sizes.pop("dropout")
    for field, value in sizes.items():
        if value < 1:
            raise UserError(f"model.options.{field}={value} must be at least 1")
    if spec.hidden % spec.num_heads:
        raise UserError(
            f"model.options.hidden={spec.hidden} must be a multiple of "
            f"model.options.num_heads={spec.num_heads}"
        )
    if not 0 <= dropout < 1:
        raise UserError(f"model.options.dropout={dropout} must be in [0, 1)")


def _check_text(
    x: Mapping[str, jax.Array], max_positions: int
) -> tuple[jax.Array, jax.Array]:
    """Returns ids and a bool mask, or says what is wrong with the input."""
    if not isinstance(x, Mapping) or not {"ids", "mask"} <= set(x):
        raise UserError('x must be {"ids": int [B, T], "mask": [B, T]} for texts')
    ids, mask = jnp.asarray(x["ids"]), jnp.asarray(x["mask"])
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise UserError(
            f'x["ids"] is {ids.dtype} {list(ids.shape)}; it must be integers [B, T]'
        )
    if mask.shape != ids.shape:
        raise UserError(
            f'x["mask"] has shape {list(mask.shape)}; it must have that of x["ids"], '
            f"{list(ids.shape)}"
        )
    if ids.shape[1] > max_positions:
        raise UserError(
            f'x["ids"] holds {ids.shape[1]} tokens a text, above max_positions='
            f"{max_positions}; truncate the texts"
        )
    return ids, mask != 0


def _default_exits(num_layers: int) -> tuple[int, ...]:
    parts = 3 if num_layers % 4 else 4
    ends = {round(num_layers * part / parts) for part in range(1, parts)}
    return tuple(sorted(ends - {0, num_layers}))


def _embed(size: int, features: int, name: str) -> nn.Embed:
    return nn.Embed(size, features, embedding_init=truncated_normal, name=name)


def _layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """Computes in float32, by mean and then variance; the result is of ``dtype``."""
    return nn.LayerNorm(epsilon=1e-12, dtype=dtype, use_fast_variance=False, name=name)
