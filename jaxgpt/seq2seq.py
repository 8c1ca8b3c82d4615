"""The Transformer of 2017: an encoder, and a decoder that reads what it encoded by cross-attention."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache, Memory
from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.decoder import decoder
from jaxgpt.embeddings import check_ids, check_tokens, embedding_params, head_params, unembed
from jaxgpt.encoder import encoder
from jaxgpt.losses import Sums, cross_entropy
from jaxgpt.stack import memory_of, stack_params


def declare(cfg: ModelConfig) -> dict:
    """Every parameter's declaration. Both sides share one embedding, and the head unless it is untied.

    Source: Vaswani et al. 2017, section 3.4.
    """
    expected = "encoder-decoder, for seq2seq"
    require(cfg.architecture == "encoder-decoder", "model.architecture", cfg.architecture, expected)
    stacks = {"encoder": stack_params(cfg, cfg.encoder_layers), "decoder": stack_params(cfg, cfg.n_layers, cross=True)}
    return {"embedding": embedding_params(cfg)} | stacks | head_params(cfg)


def init(key: Key[Array, ""], cfg: ModelConfig) -> dict:
    """Fresh float32 parameters: a nested dict of arrays."""
    return P.init(key, declare(cfg))


def encode(
    params: dict,
    source: Int[Array, "batch source"],
    cfg: ModelConfig,
    *,
    source_mask: Bool[Array, "batch source"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch source d_model"]:
    """A state of each source token. source_mask: True at a real token. key: drops activations.

    Raises ValueError where the tokens are more than context_length; and, outside `jax.jit`, for an id outside the
    vocabulary.
    """
    check_tokens("source", source, cfg)
    return encoder(_side(params, "encoder", cfg), source, cfg, mask=source_mask, key=key).x


def remember(
    params: dict,
    encoded: Float[Array, "batch source d_model"],
    cfg: ModelConfig,
    *,
    source_mask: Bool[Array, "batch source"] | None = None,
) -> Memory:
    """What the decoder reads of encoded sources: every layer's keys and values, computed once for all its steps."""
    mask = jnp.ones(encoded.shape[:2], bool) if source_mask is None else source_mask
    return memory_of(_side(params, "decoder", cfg)["layers"], encoded, cfg, mask)


def hidden(
    params: dict,
    memory: Memory,
    target: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    cache: KVCache | None = None,
    tree: Bool[Array, "batch time slots"] | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None]:
    """The decoder's output before the head; arguments as in `decode`."""
    side = _side(params, "decoder", cfg)
    out = decoder(side, target, cfg, mask=mask, memory=memory, cache=cache, tree=tree, key=key)
    return out.x, out.cache


def head(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time vocab"]:
    """Hidden states to float32 logits."""
    return unembed(params, x, cfg)


def decode(
    params: dict,
    memory: Memory,
    target: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    cache: KVCache | None = None,
    tree: Bool[Array, "batch time slots"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocab"] | tuple[Float[Array, "batch time vocab"], KVCache]:
    """Float32 logits of the target token after each one, given the source; with a cache, (logits, the cache extended).

    target: from its start token on. mask: True at a real token. tree: alternatives in one cache, as in `decoder`.
    Raises ValueError where the tokens are more than context_length or the cache's slots; and, outside `jax.jit`, for an
    id outside the vocabulary.
    """
    check_tokens("target", target, cfg, None if cache is None else cache.positions.shape[1])
    x, cache = hidden(params, memory, target, cfg, mask=mask, cache=cache, tree=tree, key=key)
    logits = head(params, x, cfg)
    return logits if cache is None else (logits, cache)


def apply(
    params: dict,
    source: Int[Array, "batch source"],
    target: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    source_mask: Bool[Array, "batch source"] | None = None,
    target_mask: Bool[Array, "batch time"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocab"]:
    """Float32 logits of the target token after each one, given the whole source. Errors as of `encode` and `decode`.

    Source: Vaswani et al. 2017, section 3.
    """
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    encoded = encode(params, source, cfg, source_mask=source_mask, key=keys[0])
    memory = remember(params, encoded, cfg, source_mask=source_mask)
    return decode(params, memory, target, cfg, mask=target_mask, key=keys[1])


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], Sums]:
    """Mean cross-entropy of the targets, in nats a token, label-smoothed as the config says, and the sums.

    batch: "source", Int[batch source], "source_mask" (absent: all real), "inputs", Int[batch time], the target from its
    start token on, "targets", the same one token later, and "weights", Float[batch time], 0 at padding, which stands
    after the text (absent: 1).
    Raises ValueError for any other name in the batch; and as `apply` does, for a target's id too.
    """
    for name in batch:
        known = ("source", "source_mask", "inputs", "targets", "weights")
        require(name in known, "batch", name, nearest(name, known))
    check_ids("targets", batch["targets"], cfg.vocab_size)
    logits = apply(params, batch["source"], batch["inputs"], cfg, source_mask=batch.get("source_mask"), key=key)
    weights = batch["weights"] if "weights" in batch else jnp.ones(batch["targets"].shape)
    return cross_entropy(logits, batch["targets"], weights, cfg.label_smoothing)


def _side(params: dict, name: str, cfg: ModelConfig) -> dict:
    """What one of the two stacks reads, in the dtype of the computation. Raises ValueError for another architecture."""
    expected = "encoder-decoder, for seq2seq"
    require(cfg.architecture == "encoder-decoder", "model.architecture", cfg.architecture, expected)
    return P.cast({"embedding": params["embedding"]} | params[name], cfg.dtype)
