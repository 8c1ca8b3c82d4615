"""BERT: the encoder, and heads that fill in masked tokens, judge a pair of texts, or classify texts and tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import params as P
from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.embeddings import check_ids, check_tokens, embedding_params, head_params, unembed
from jaxgpt.encoder import encoder
from jaxgpt.feedforward import activation, dropout, linear, linear_params, norm, norm_params
from jaxgpt.losses import Sums, confusion, cross_entropy
from jaxgpt.stack import stack_params

Pooling = Literal["mean", "cls", "max"]


def declare(cfg: ModelConfig) -> dict:
    """Every parameter's declaration: the encoder, and what `cfg.head` reads its states with."""
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, for bert")
    params = {"embedding": embedding_params(cfg)} | stack_params(cfg, cfg.n_layers)
    if cfg.head in ("lm", "pretraining"):
        transform = {"transform": _dense_params(cfg, {"dense": cfg.d_model}), "norm": norm_params(cfg)}
        params |= {"mlm": transform | {"bias": P.bias((cfg.vocab_size,), ("vocab",))}} | head_params(cfg)
    if cfg.head in ("pretraining", "sequence", "pooled"):
        params["pooler"] = _dense_params(cfg, {"dense": cfg.d_model})
    if cfg.head == "pretraining":
        params["next_sentence"] = _dense_params(cfg, {"classes": 2})
    if cfg.head in ("sequence", "token"):
        params["classifier"] = _dense_params(cfg, {"classes": cfg.n_classes})
    return params


def _dense_params(cfg: ModelConfig, outputs: dict[str, int]) -> dict:
    return linear_params({"embed": cfg.d_model}, outputs, cfg.init_std, True)


def init(key: Key[Array, ""], cfg: ModelConfig) -> dict:
    """Fresh float32 parameters: a nested dict of arrays."""
    return P.init(key, declare(cfg))


def encode(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    texts: Int[Array, "batch time"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time d_model"]:
    """A state of each token, from the whole text around it.

    tokens: ids in [0, vocab_size), [CLS] and [SEP] among them. mask: True at a real token. segments: 0 in the first
    text of a pair, 1 in the second (None: 0). texts: for packed rows, as of `encoder`. key: drops activations at the
    config's rate.
    Raises ValueError where the tokens are more than context_length, and for a mask and texts; and, outside `jax.jit`,
    for an id or segment outside its table.
    Source: Devlin et al. 2019, section 3.
    """
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, for bert")
    check_tokens("tokens", tokens, cfg)
    if segments is not None:
        require(cfg.n_segments > 0, "segments", "an array", "None, as model.n_segments=0")
        check_ids("segments", segments, cfg.n_segments)
    params = P.cast(params, cfg.dtype)
    return encoder(params, tokens, cfg, mask=mask, segments=segments, texts=texts, key=key).x


def head(params: dict, x: Float[Array, "batch time d_model"], cfg: ModelConfig) -> Float[Array, "batch time vocab"]:
    """States to float32 logits of the tokens that stand there. Source: Devlin et al. 2019, section 3.1, task 1.

    The transform (dense, activation, norm) and the bias are the reference implementation's.
    """
    require("mlm" in params, "model.head", cfg.head, "lm or pretraining, to fill in tokens")
    mlm = P.cast(params["mlm"], cfg.dtype)
    x = norm(mlm["norm"], activation(linear(mlm["transform"], x), cfg), cfg)
    return unembed(params, x, cfg) + params["mlm"]["bias"]


def apply(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time vocab"]:
    """Float32 logits of the token at each place, which [MASK] hides. Arguments and errors as of `encode`."""
    return head(params, encode(params, tokens, cfg, mask=mask, segments=segments, key=key), cfg)


def pool(
    states: Float[Array, "batch time d_model"], mask: Bool[Array, "batch time"] | None, how: Pooling
) -> Float[Array, "batch d_model"]:
    """One vector a text: the mean or largest of its real tokens' states, or the first of them ("cls").

    Source: Reimers and Gurevych 2019, "Sentence-BERT", section 3.
    """
    require(how in ("mean", "cls", "max"), "how", how, "one of mean, cls, max")
    if how == "cls":
        return _at(states, _first(mask, states))[:, 0]
    real = jnp.ones((*states.shape[:2], 1), bool) if mask is None else mask[..., None]
    if how == "max":
        return jnp.where(real, states, -jnp.inf).max(1)
    return jnp.where(real, states, 0).sum(1) / jnp.maximum(real.sum(1), 1)


def _first(mask: Bool[Array, "batch time"] | None, states: Float[Array, "batch time d_model"]) -> Int[Array, "batch 1"]:
    """The place of each row's first real token."""
    return jnp.zeros((len(states), 1), int) if mask is None else mask.argmax(1)[:, None]


def _at(
    states: Float[Array, "batch time d_model"], positions: Int[Array, "batch places"]
) -> Float[Array, "batch places d_model"]:
    return jnp.take_along_axis(states, positions[..., None], 1)


def pooled(
    params: dict,
    states: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Bool[Array, "batch time"] | None = None,
    positions: Int[Array, "batch texts"] | None = None,
) -> Float[Array, "batch *texts d_model"]:
    """tanh(dense(the first real token's state)), which pair and text heads read, as in the reference implementation.

    positions: where the first token of each text of a packed row is. DistilBERT has max(0, x) in place of tanh.
    """
    require("pooler" in params, "model.head", cfg.head, "pretraining, sequence or pooled")
    x = _at(states, _first(mask, states) if positions is None else positions)
    x = linear(P.cast(params["pooler"], states.dtype.name), x)
    x = jax.nn.relu(x) if cfg.pooler_activation == "relu" else jnp.tanh(x)
    return x[:, 0] if positions is None else x


def next_sentence(params: dict, pooled: Float[Array, "batch d_model"]) -> Float[Array, "batch 2"]:
    """Float32 logits of (follows, does not) for pairs of texts. Source: Devlin et al. 2019, section 3.1, task 2."""
    return linear(P.cast(params["next_sentence"], pooled.dtype.name), pooled[:, None])[:, 0].astype(jnp.float32)


def classify(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    texts: Int[Array, "batch time"] | None = None,
    positions: Int[Array, "batch texts"] | None = None,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch *places classes"]:
    """Float32 logits of the classes, for each text (head = sequence) or token (head = token).

    positions: of the first token of each text, where a row has several, as `texts` says.
    Arguments and errors as of `encode`. Source: Devlin et al. 2019, sections 4.1 and 5.3.
    """
    require("classifier" in params, "model.head", cfg.head, "sequence or token, to classify")
    require((texts is None) == (positions is None), "texts, positions", "one of them", "both or neither")
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    x = encode(params, tokens, cfg, mask=mask, segments=segments, texts=texts, key=keys[0])
    if cfg.head == "sequence":
        x = pooled(params, x, cfg, positions=_first(mask, x) if positions is None else positions)
    logits = linear(P.cast(params["classifier"], cfg.dtype), dropout(x, cfg.dropout, keys[1])).astype(jnp.float32)
    return logits[:, 0] if cfg.head == "sequence" and positions is None else logits


def loss(
    params: dict, batch: dict[str, Array], cfg: ModelConfig, *, key: Key[Array, ""] | None = None
) -> tuple[Float[Array, ""], Sums]:
    """Mean cross-entropy in nats, and the sums of `cross_entropy`: of masked tokens, or of classes.

    batch: "inputs", Int[batch time], and optionally "mask" and "segments" as in `encode`. Then for head = lm and
    pretraining "positions" and "targets", Int[batch masked], the places of masked tokens and what stood there, and
    "weights", Float[batch masked] (absent: 1): logits are computed at these places only. With "next_sentence",
    Int[batch], 1 where the second text does not follow, its loss is added, "next_correct" and "next_weight" summed.
    For head = sequence and token "labels", Int[batch] or Int[batch time], and "weights" alike (absent: 1); of sequence
    the sums have the `confusion` too, and packed rows have "texts" and "positions" as in `classify`, with "labels",
    Int[batch texts].
    Raises ValueError for any other name in the batch, and for ids, places or labels outside their range, as `encode`.
    """
    require(cfg.head not in ("pooled", "none"), "model.head", cfg.head, "one that has a loss")
    masked = cfg.head in ("lm", "pretraining")
    needed = ("inputs", "positions", "targets") if masked else ("inputs", "labels")
    more = {"pretraining": ["next_sentence"], "sequence": ["texts", "positions"]}
    known = (*needed, "mask", "segments", "weights", *more.get(cfg.head, []))
    for name in batch:
        require(name in known, "batch", name, nearest(name, known))
    for name in needed:
        require(name in batch, "batch", sorted(batch), f"{name} too")
    inputs = {name: batch.get(name) for name in ("mask", "segments")}
    if not masked:
        check_ids("labels", batch["labels"], cfg.n_classes or 0)
        packed = {name: batch[name] for name in ("texts", "positions") if name in batch}
        logits = classify(params, batch["inputs"], cfg, **inputs, **packed, key=key)
        labels, weights = batch["labels"], _weights(batch, batch["labels"])
        mean, sums = cross_entropy(logits, labels, weights, cfg.label_smoothing)
        return mean, sums | ({"confusion": confusion(logits, labels, weights)} if cfg.head == "sequence" else {})

    check_ids("positions", batch["positions"], batch["inputs"].shape[1])
    check_ids("targets", batch["targets"], cfg.vocab_size)
    states = encode(params, batch["inputs"], cfg, **inputs, key=key)
    chosen = jnp.take_along_axis(states, batch["positions"][..., None], 1)
    logits = head(params, chosen, cfg)
    mean, sums = cross_entropy(logits, batch["targets"], _weights(batch, batch["targets"]), cfg.label_smoothing)
    if "next_sentence" in batch:
        check_ids("next_sentence", batch["next_sentence"], 2)
        judged = next_sentence(params, pooled(params, states, cfg, inputs["mask"]))
        labels = batch["next_sentence"]
        more, judged_sums = cross_entropy(judged, labels, jnp.ones(labels.shape), 0.0)
        mean += more
        sums |= {"next_correct": judged_sums["correct"], "next_weight": judged_sums["weight"]}
    return mean, sums


def _weights(batch: dict[str, Array], like: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    return batch["weights"] if "weights" in batch else jnp.ones(like.shape)
