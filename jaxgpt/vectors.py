"""Texts as vectors, by an encoder that was trained to make like texts' vectors alike."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import bert
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Model
from jaxgpt.rows import batches, framed


def embed_texts(
    model: Model,
    texts: str | Sequence[str],
    *,
    pooling: bert.Pooling | None = None,
    normalize: bool | None = None,
    batch_size: int = 64,
) -> Float[np.ndarray, "*texts d_model"]:
    """The float32 vector of a text; of several, one below the other.

    pooling: how the states of a text's tokens become its vector (None: as the model's settings say, else the mean).
    normalize: divide by its length, so that a product of two is the cosine of their angle (None: as the settings say).
    A text is cut, without a word, as sentence-transformers cuts it: with what begins and ends it, it has at most
    settings.max_tokens and context_length tokens.
    batch_size: texts encoded at once, those of like length together; in float32 no vector depends on it.
    Raises ValueError, before any work, for a model that is no encoder.
    Source: Reimers and Gurevych 2019, "Sentence-BERT", section 3.
    """
    cfg, settings = model.inference_config, model.settings
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, to make vectors")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    longest = min(settings.max_tokens or cfg.context_length, cfg.context_length)
    rows, *_ = framed(model.tokenizer, [texts] if isinstance(texts, str) else texts, cfg.context_length, longest)
    pooling = pooling or settings.pooling or "mean"
    normalize = settings.normalize if normalize is None else normalize
    found = np.zeros((len(rows), cfg.d_model), np.float32)
    for chosen, tokens, real in batches(rows, longest, batch_size):
        found[chosen] = _vectors(model.inference_params, tokens, real, cfg, pooling, normalize)[: len(chosen)]
    return found[0] if isinstance(texts, str) else found


def token_states(
    model: Model, texts: Sequence[str], *, max_tokens: int | None = None, batch_size: int = 64
) -> list[Float[np.ndarray, "tokens d_model"]]:
    """The float32 state of each token of each text, those that begin and end it among them.

    max_tokens: where a text is cut, at most context_length (None: one that is longer is refused).
    batch_size: as of `embed_texts`. Raises ValueError, before any work, for a model that is no encoder.
    """
    cfg = model.inference_config
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, to read states of")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    rows, *_ = framed(model.tokenizer, texts, cfg.context_length, max_tokens)
    found: list = [None] * len(rows)
    for chosen, tokens, real in batches(rows, cfg.context_length, batch_size):
        states = np.asarray(_states(model.inference_params, tokens, real, cfg), np.float32)
        for i, row in zip(chosen, states, strict=False):
            found[i] = row[: len(rows[i])]
    return found


_states = jax.jit(lambda params, tokens, mask, cfg: bert.encode(params, tokens, cfg, mask=mask), static_argnames="cfg")


@functools.partial(jax.jit, static_argnames=("cfg", "pooling", "normalize"))
def _vectors(
    params: dict,
    tokens: Int[Array, "batch time"],
    mask: Bool[Array, "batch time"],
    cfg: ModelConfig,
    pooling: bert.Pooling,
    normalize: bool,
) -> Float[Array, "batch d_model"]:
    states = bert.encode(params, tokens, cfg, mask=mask)
    vectors = bert.pool(states.astype(jnp.float32), mask, pooling)
    # The least length is PyTorch's.
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12) if normalize else vectors
