"""Tokens and their places as vectors: token, learned, sinusoidal, rotary and relative-bias positions."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.params import weight
from jaxgpt.sharding import constrain


def embedding_params(cfg: ModelConfig) -> dict:
    """Token embeddings; a table of positions if they are learned; a table of biases if they are relative."""
    params = {"token": weight((cfg.vocab_size, cfg.d_model), ("vocab", "embed"), cfg.init_std)}
    if cfg.position == "learned":
        params["position"] = weight((cfg.context_length, cfg.d_model), ("positions", "embed"), cfg.init_std)
    if cfg.position == "relative":
        params["relative"] = weight((cfg.relative_buckets or 32, cfg.n_heads), (None, "heads"), cfg.init_std)
    return params


def embed(
    params: dict, tokens: Int[Array, "batch time"], positions: Int[Array, "#batch time"], cfg: ModelConfig
) -> Float[Array, "batch time d_model"]:
    """Token vectors, plus position vectors where the positions are absolute ones.

    A token id or a position outside its table is the caller's mistake: it reads the table's nearest row.
    """

    def rows(table, indices):
        return table.at[indices].get(mode="clip", wrap_negative_indices=False)

    x = rows(params["token"], tokens)
    if cfg.position == "learned":
        x = x + rows(params["position"], positions)
    if cfg.position == "sinusoidal":
        x = x + sinusoid(positions, cfg.d_model).astype(x.dtype)
    return constrain(x, "batch", "time", "embed")


def sinusoid(positions: Int[Array, "batch time"], d_model: int) -> Float[Array, "batch time d_model"]:
    """sin(p / 10000^(2i/d)) in the even columns 2i, the cosine beside it in 2i+1. float32.

    Source: Vaswani et al. 2017, section 3.5.
    """
    frequencies = 10000.0 ** (-jnp.arange(0, d_model, 2) / d_model)
    angles = positions[..., None] * frequencies
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*positions.shape, d_model)


def rotate(
    x: Float[Array, "batch time heads head_dim"], positions: Int[Array, "#batch time"], theta: float | None
) -> Float[Array, "batch time heads head_dim"]:
    """Rotary embedding: the pair (i, i + head_dim/2) is turned by p * theta^(-2i/head_dim) (theta None: 10000).

    Source: Su et al. 2021, section 3.4.2, equation 34; pairs are halves apart, as in GPT-NeoX and Hugging Face's Llama.
    """
    half = x.shape[-1] // 2
    frequencies = (theta or 10000.0) ** (-jnp.arange(half) / half)
    # float32: bfloat16 rounds position 257 to 256.
    angles = (positions[..., None] * frequencies)[:, :, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


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


def relative_bias(
    params: dict,
    query_positions: Int[Array, "#batch time"],
    key_positions: Int[Array, "#batch keys"],
    cfg: ModelConfig,
    bidirectional: bool,
) -> Float[Array, "#batch heads time keys"]:
    """What is added to the attention scores of every layer, by the distance of key and query. Source: as above."""
    distance = key_positions[:, None, :] - query_positions[:, :, None]
    bucket = relative_bucket(distance, cfg.relative_buckets or 32, cfg.relative_max_distance or 128, bidirectional)
    return jnp.moveaxis(params["relative"][bucket], -1, 1)
