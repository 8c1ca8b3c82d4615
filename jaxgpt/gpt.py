"""GPT: the decoder and a language-model head. GPT-1, GPT-2, GPT-3 and Llama 2 are configs of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache
from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.decoder import decoder, decoder_params
from jaxgpt.feedforward import linear_params
from jaxgpt.sharding import constrain, time_is_cut


def declare(cfg: ModelConfig) -> dict:
    """Every parameter's declaration; an untied head is a matrix of its own."""
    params = decoder_params(cfg)
    if not cfg.tie_embeddings:
        params["head"] = linear_params({"embed": cfg.d_model}, {"vocab": cfg.vocab_size}, cfg.init_std, False)
    return params


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
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None]:
    """The decoder's output before the head; arguments as in `apply`."""
    params = P.cast(params, cfg.dtype)
    return decoder(params, tokens, cfg, mask=mask, segments=segments, cache=cache, key=key)


def head(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time vocab"]:
    """Hidden states to float32 logits."""
    params = P.cast({name: params[name] for name in ("embedding", "head") if name in params}, cfg.dtype)
    matrix, letters = (params["embedding"]["token"], "VD") if cfg.tie_embeddings else (params["head"]["kernel"], "DV")
    rows = x if time_is_cut() else x.reshape(-1, cfg.d_model)  # as in `linear`
    logits = jnp.einsum(f"...D,{letters}->...V", rows, matrix, preferred_element_type=jnp.float32)
    logits = logits.reshape(*x.shape[:2], -1)
    return constrain(logits, "batch", "time", "vocab")


def apply(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    cache: KVCache | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocab"] | tuple[Float[Array, "batch time vocab"], KVCache]:
    """Float32 logits of the token after each one; with a cache, (logits, the cache extended by these tokens).

    tokens: ids in [0, vocab_size). mask: True at a real token. segments: for packed rows, from 1, 0 for padding.
    key: drops activations at the config's rate; without it nothing is random.
    Raises ValueError where the tokens are more than context_length or the cache's slots; and, outside `jax.jit`, for an
    id outside the vocabulary.
    Source: Radford et al. 2019, section 2.3, and Vaswani et al. 2017, section 3, for the parts.
    """
    room = cfg.context_length if cache is None else cache.positions.shape[1]
    if tokens.shape[1] > room:
        raise ValueError(f"tokens: found {tokens.shape[1]} in a row, expected at most {room}")
    _check_ids("tokens", tokens, cfg)
    x, cache = hidden(params, tokens, cfg, mask=mask, segments=segments, cache=cache, key=key)
    logits = head(params, x, cfg)
    return logits if cache is None else (logits, cache)


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean cross-entropy of the targets, in nats a token, and the sums {"weight", "nats", "correct"} it comes from.

    batch: "inputs" and "targets", Int[batch time], and optionally "weights", Float[batch time], each target's share
    (absent: 1, and 0 where a segment is padding), and "segments" as in `apply`. A batch of weight 0 has loss 0.
    Raises ValueError for any other name in the batch; and as `apply` does, for a target's id too.
    """
    for name in batch:
        known = ("inputs", "targets", "weights", "segments")
        require(name in known, "batch", name, nearest(name, known))
    _check_ids("targets", batch["targets"], cfg)
    logits = apply(params, batch["inputs"], cfg, segments=batch.get("segments"), key=key)
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    weights = batch.get("weights")
    if weights is None:
        weights = (batch["segments"] > 0).astype(nats.dtype) if "segments" in batch else jnp.ones_like(nats)
    right = jnp.argmax(logits, axis=-1) == batch["targets"]
    sums = {"weight": weights.sum(), "nats": (nats * weights).sum(), "correct": (right * weights).sum()}
    return sums["nats"] / jnp.maximum(sums["weight"], 1e-9), sums


def _check_ids(name: str, ids: Int[Array, "batch time"], cfg: ModelConfig) -> None:
    """Raise ValueError for an id outside the vocabulary, where they show: not while tracing, not across hosts."""
    if isinstance(ids, jax.core.Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    seen = np.asarray(ids)
    outside = seen[(seen < 0) | (seen >= cfg.vocab_size)]
    if outside.size:
        raise ValueError(f"{name}: found the id {outside[0]}, expected 0..{cfg.vocab_size - 1}")
