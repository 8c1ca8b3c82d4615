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
from jaxgpt.rows import batches


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
    cfg, settings, tokenizer = model.config, model.settings, model.tokenizer
    require(cfg.architecture == "encoder", "model.architecture", cfg.architecture, "encoder, to make vectors")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    longest = min(settings.max_tokens or cfg.context_length, cfg.context_length)
    room = longest - len(tokenizer.frame([]))
    rows = [tokenizer.frame(ids[:room]) for ids in tokenizer.encode_batch([texts] if isinstance(texts, str) else texts)]
    for i, row in enumerate(rows):
        require(len(row) > 0, f"text {i}", "no tokens", "at least one")

    pooling = pooling or settings.pooling or "mean"
    normalize = settings.normalize if normalize is None else normalize
    found = np.zeros((len(rows), cfg.d_model), np.float32)
    for chosen, tokens, real in batches(rows, longest, batch_size):
        found[chosen] = _vectors(model.params, tokens, real, cfg, pooling, normalize)[: len(chosen)]
    return found[0] if isinstance(texts, str) else found


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
