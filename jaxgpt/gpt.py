"""GPT: the decoder, and a head that gives the next token or the class of a text. GPT-1 to 3 and Llama are configs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache
from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.decoder import decoder
from jaxgpt.embeddings import check_ids, check_tokens, embedding_params, head_params, unembed
from jaxgpt.feedforward import linear, linear_params
from jaxgpt.losses import Sums, confusion, cross_entropy
from jaxgpt.stack import stack_params


def declare(cfg: ModelConfig) -> dict:
    """Every parameter's declaration; an untied head is a matrix of its own, as is one that classifies."""
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, for gpt")
    params = {"embedding": embedding_params(cfg)} | stack_params(cfg, cfg.n_layers)
    if cfg.head == "sequence":
        return params | {
            "classifier": linear_params({"embed": cfg.d_model}, {"classes": cfg.n_classes}, cfg.init_std, False)
        }
    return params | head_params(cfg)


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
    require(cfg.head == "lm", "model.head", cfg.head, "lm, to give tokens")
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


def classify(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    texts: Int[Array, "batch time"] | None = None,
    positions: Int[Array, "batch texts"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch *texts classes"]:
    """Float32 logits of the classes, read from the state of each text's last real token.

    texts, positions: for packed rows, which text of its row a token is of (from 1; 0 is padding), and where the last
    token of each text is. Not with a mask.
    Arguments and errors as of `apply`. Source: Radford et al. 2018, section 3.2; the matrix has no bias, as in
    transformers' GPT2ForSequenceClassification.
    """
    require(cfg.head == "sequence", "model.head", cfg.head, "sequence, to classify")
    check_tokens("tokens", tokens, cfg)
    require((texts is None) == (positions is None), "texts, positions", "one of them", "both or neither")
    require(texts is None or mask is None, "texts", "a mask too", "texts alone (0 marks padding)")
    x, _ = hidden(params, tokens, cfg, mask=mask, segments=texts, key=key)
    last = positions
    if last is None:
        last = jnp.full((x.shape[0], 1), -1) if mask is None else x.shape[1] - 1 - mask[:, ::-1].argmax(1)[:, None]
    x = jnp.take_along_axis(x, last[..., None], 1)
    logits = linear(P.cast(params["classifier"], cfg.dtype), x).astype(jnp.float32)
    return logits[:, 0] if positions is None else logits


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], Sums]:
    """Mean cross-entropy of the targets, in nats a token or text, and the sums of `cross_entropy`.

    batch: "inputs" and "targets", Int[batch time], and optionally "weights", Float[batch time], each target's share
    (absent: 1, and 0 where a segment is padding), and "segments" as in `apply`. For head = sequence "inputs" and
    "labels", Int[batch], and optionally "mask" as in `classify` and "weights", Float[batch]; packed rows have "texts"
    and "positions" as there, and "labels" and "weights" [batch texts]. Then the sums have the `confusion` too.
    Raises ValueError for any other name in the batch; and as `apply` does, for a target's id or a label too.
    """
    classes = cfg.head == "sequence"
    target = "labels" if classes else "targets"
    known = ("inputs", target, "weights", *(("mask", "texts", "positions") if classes else ("segments",)))
    for name in batch:
        require(name in known, "batch", name, nearest(name, known))
    check_ids(target, batch[target], cfg.n_classes if classes else cfg.vocab_size)
    if classes:
        rows = {name: batch.get(name) for name in ("mask", "texts", "positions")}
        logits = classify(params, batch["inputs"], cfg, **rows, key=key)
    else:
        logits = apply(params, batch["inputs"], cfg, segments=batch.get("segments"), key=key)
    weights = batch.get("weights")
    if weights is None:
        real = batch["segments"] > 0 if "segments" in batch else jnp.ones_like(batch[target])
        weights = real.astype(logits.dtype)
    mean, sums = cross_entropy(logits, batch[target], weights, cfg.label_smoothing)
    return mean, sums | ({"confusion": confusion(logits, batch[target], weights)} if classes else {})
