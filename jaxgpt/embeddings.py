"""Tokens and their places as vectors, by every kind of position; and vectors as logits of tokens."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgpt.config import ModelConfig
from jaxgpt.feedforward import dropout, linear_params, norm, norm_params
from jaxgpt.params import Param, bias, weight
from jaxgpt.sharding import constrain, time_is_cut


def embedding_params(cfg: ModelConfig) -> dict:
    """Token embeddings; tables of positions if they are learned, and of segments; a norm of the sum."""
    params = {"token": weight((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), cfg.init_std)}
    if cfg.position == "learned":
        rows = cfg.context_length + cfg.position_offset
        params["position"] = weight((rows, cfg.d_model), ("positions", "embed"), cfg.init_std)
    if cfg.n_segments:
        params["segment"] = weight((cfg.n_segments, cfg.d_model), (None, "embed"), cfg.init_std)
    if cfg.embedding_norm:
        params["norm"] = norm_params(cfg)
    return params


def embed(
    params: dict,
    tokens: Int[Array, "batch time"],
    positions: Int[Array, "#batch time"],
    cfg: ModelConfig,
    *,
    segments: Int[Array, "#batch time"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time d_model"]:
    """Token vectors, plus those of position (where positions are absolute ones) and segment; normalised; dropped.

    segments: rows of the segment table (None: row 0), in a model that has one.
    A token id, position or segment outside its table is the caller's mistake: it reads the table's nearest row.
    Sources: scale, Vaswani et al. 2017, section 3.4; segments, Devlin et al. 2019, section 3.
    """

    def rows(table, indices):
        return table.at[indices].get(mode="clip", wrap_negative_indices=False)

    x = rows(params["token"], tokens)
    if cfg.embedding_scale:
        x = x * math.sqrt(cfg.d_model)
    if cfg.position == "learned":
        x = x + rows(params["position"], positions + cfg.position_offset)
    if cfg.position.startswith("sinusoidal"):
        x = x + sinusoid(positions, cfg.d_model, split=cfg.position == "sinusoidal_split").astype(x.dtype)
    if cfg.n_segments:
        x = x + rows(params["segment"], jnp.zeros((1, tokens.shape[1]), int) if segments is None else segments)
    if cfg.embedding_norm:
        x = norm(params["norm"], x, cfg)
    return constrain(dropout(x, cfg.dropout, key), "batch", "time", "embed")


def head_params(cfg: ModelConfig) -> dict:
    """The matrix from states to logits, but where that is the token embedding; and the logits' bias, if any."""
    params = {}
    if not cfg.tie_embeddings:
        params["head"] = linear_params({"embed": cfg.d_model}, {"vocab": cfg.vocab_size}, cfg.init_std, False)
    if cfg.head_bias:
        params["head_bias"] = bias((cfg.vocab_size,), ("vocab",))
    return params


def unembed(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time vocab"]:
    """States to float32 logits, by the token embedding or the head's own matrix. params: the whole model's."""
    if cfg.tie_embeddings:
        matrix, letters = params["embedding"]["token"], "VD"
    elif "transposed" in params["head"]:  # as in `linear`
        matrix, letters = params["head"]["transposed"], "VD"
    else:
        matrix, letters = params["head"]["kernel"], "DV"
    x = x if cfg.logit_scale is None else x * cfg.logit_scale
    rows = x if time_is_cut() else x.reshape(-1, cfg.d_model)  # as in `linear`
    logits = _product(rows, matrix.astype(cfg.dtype), f"...D,{letters}->...V")
    logits = logits + params["head_bias"] if cfg.head_bias else logits
    return constrain(logits.reshape(*x.shape[:2], -1), "batch", "time", "vocab")


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _product(x: Float[Array, "*rows d_model"], matrix: Float[Array, "a b"], axes: str) -> Float[Array, "*rows vocab"]:
    """The einsum in float32, of which tangents and so cotangents come in the dtype of x: a backward pass in bfloat16
    multiplies in bfloat16, too, and holds half the bytes."""
    return jnp.einsum(axes, x, matrix, preferred_element_type=jnp.float32)


@_product.defjvp
def _product_jvp(axes, primals, tangents):
    (x, matrix), (dx, dmatrix) = primals, tangents
    tangent = jnp.einsum(axes, dx, matrix) + jnp.einsum(axes, x, dmatrix)
    return _product(x, matrix, axes), tangent.astype(jnp.float32)


def check_ids(name: str, ids: Int[Array, "*shape"], size: int) -> None:
    """Raise ValueError for an id outside 0..size-1, where they show: not while tracing, not across hosts."""
    if isinstance(ids, jax.core.Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    seen = np.asarray(ids)
    outside = seen[(seen < 0) | (seen >= size)]
    if outside.size:
        raise ValueError(f"{name}: found the id {outside[0]}, expected 0..{size - 1}")


def check_tokens(name: str, tokens: Int[Array, "batch time"], cfg: ModelConfig, room: int | None = None) -> None:
    """Raise ValueError for rows longer than `room` (None: context_length) and, as `check_ids`, for unknown ids."""
    room = cfg.context_length if room is None else room
    if tokens.shape[1] > room:
        raise ValueError(f"{name}: found {tokens.shape[1]} in a row, expected at most {room}")
    check_ids(name, tokens, cfg.vocab_size)


def sinusoid(
    positions: Int[Array, "batch time"], d_model: int, *, split: bool = False
) -> Float[Array, "batch time d_model"]:
    """sin(p / 10000^(2i/d)) in the even columns 2i, the cosine beside it in 2i+1. float32.

    split: the sines in columns i, the cosines in i + d/2, as in the authors' own implementation and Marian.
    Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = 10000.0 ** (-jnp.arange(0, d_model, 2) / d_model)
    angles = positions[..., None] * frequencies
    both = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(both, -1) if split else jnp.stack(both, -1).reshape(*positions.shape, d_model)


def relative_bucket(
    distance: Int[Array, "*shape"], buckets: int, max_distance: int, bidirectional: bool
) -> Int[Array, "*shape"]:
    """The bucket of key position - query position: exact while near, logarithmic to `max_distance`, one beyond.

    Bidirectional stacks use half of the buckets for keys ahead of the query; causal ones see none.
    Source: Raffel et al. 2020, section 2.1; boundaries as in the T5 reference implementation.
    """
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance > 0) * buckets
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / jnp.log(max_distance / exact)
    far = jnp.minimum(exact + (ratio * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)


def relative_params(cfg: ModelConfig) -> Param:
    """A bias for each bucket of distance and each head, which a stack's layers share."""
    return weight((cfg.relative_buckets or 32, cfg.n_heads), (None, "heads"), cfg.init_std)


def relative_bias(
    table: Float[Array, "buckets heads"],
    query_positions: Int[Array, "#batch time"],
    key_positions: Int[Array, "#batch keys"],
    cfg: ModelConfig,
    bidirectional: bool,
) -> Float[Array, "#batch heads time keys"]:
    """What is added to the attention scores of every layer, by the distance of key and query. Source: as above."""
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    bucket = relative_bucket(distance, cfg.relative_buckets or 32, cfg.relative_max_distance or 128, bidirectional)
    return jnp.moveaxis(table[bucket], -1, 1)
