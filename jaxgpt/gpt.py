"""GPT: the decoder and a language-model head. GPT-1, GPT-2, GPT-3 and Llama 2 are configs of it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache
from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.decoder import decoder
from jaxgpt.embeddings import check_ids, check_tokens, embedding_params, head_params, unembed
from jaxgpt.losses import Sums, cross_entropy
from jaxgpt.stack import stack_params


def declare(cfg: ModelConfig) -> dict:
    """Every parameter's declaration; an untied head is a matrix of its own."""
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, for gpt")
    return {"embedding": embedding_params(cfg)} | stack_params(cfg, cfg.n_layers) | head_params(cfg)


def init(key: Key[Array, ""], cfg: ModelConfig) -> dict:
    """Fresh float32 parameters: a nested dict of arrays."""
    return P.init(key, declare(cfg))


def hidden(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    cache: KVCache | None = None,
    tree: Bool[Array, "batch time slots"] | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None]:
    """The decoder's output before the head; arguments as in `apply`."""
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, for gpt")
    params = P.cast(params, cfg.dtype)
    out = decoder(params, tokens, cfg, mask=mask, segments=segments, cache=cache, tree=tree, key=key)
    return out.x, out.cache


def head(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time vocab"]:
    """Hidden states to float32 logits."""
    return unembed(params, x, cfg)


def apply(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    cache: KVCache | None = None,
    tree: Bool[Array, "batch time slots"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocab"] | tuple[Float[Array, "batch time vocab"], KVCache]:
    """Float32 logits of the token after each one; with a cache, (logits, the cache extended by these tokens).

    tokens: ids in [0, vocab_size). mask: True at a real token. segments: for packed rows, from 1, 0 for padding.
    tree: alternatives in one cache, as in `decoder`. key: drops activations at the config's rate; without it nothing
    is random.
    Raises ValueError where the tokens are more than context_length or the cache's slots; and, outside `jax.jit`, for an
    id outside the vocabulary.
    Source: Radford et al. 2019, section 2.3, and Vaswani et al. 2017, section 3, for the parts.
    """
    check_tokens("tokens", tokens, cfg, None if cache is None else cache.positions.shape[1])
    x, cache = hidden(params, tokens, cfg, mask=mask, segments=segments, cache=cache, tree=tree, key=key)
    logits = head(params, x, cfg)
    return logits if cache is None else (logits, cache)


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], Sums]:
    """Mean cross-entropy of the targets, in nats a token, and the sums of `cross_entropy`.

    batch: "inputs" and "targets", Int[batch time], and optionally "weights", Float[batch time], each target's share
    (absent: 1, and 0 where a segment is padding), and "segments" as in `apply`.
    Raises ValueError for any other name in the batch; and as `apply` does, for a target's id too.
    """
    for name in batch:
        known = ("inputs", "targets", "weights", "segments")
        require(name in known, "batch", name, nearest(name, known))
    check_ids("targets", batch["targets"], cfg.vocab_size)
    logits = apply(params, batch["inputs"], cfg, segments=batch.get("segments"), key=key)
    weights = batch.get("weights")
    if weights is None:
        real = batch["segments"] > 0 if "segments" in batch else jnp.ones_like(batch["targets"])
        weights = real.astype(logits.dtype)
    return cross_entropy(logits, batch["targets"], weights, cfg.label_smoothing)
