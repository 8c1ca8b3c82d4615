"""The bidirectional stack: embeddings, blocks in which every token sees every other, a last norm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxgpt.attention import Mask
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.embeddings import embed
from jaxgpt.stack import Output, stack


def encoder(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "#batch time"] | None = None,
    texts: Int[Array, "batch time"] | None = None,
    key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> Output:
    """Hidden states of tokens that all see each other. params: "embedding" and what `stack_params` declares.

    mask: True at a real token; others take no position and nothing sees them, so padding may stand anywhere.
    segments: which text of a pair a token is of, a row of the segment table.
    texts: for packed rows, which text of its row a token is of (from 1; 0 is padding); texts don't see each other and
    each counts its positions from 0. Not with a mask. key: drops activations.
    Source: Devlin et al. 2019, section 3; Vaswani et al. 2017, section 3.1.
    """
    visible, places = Mask(causal=False, window=cfg.window), jnp.arange(tokens.shape[1])[None]
    require(texts is None or mask is None, "texts", "a mask too", "texts alone (0 marks padding)")
    if mask is not None or texts is not None:
        visible, places = visible.parted(mask, texts)
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    x = embed(params["embedding"], tokens, jnp.maximum(places, 0), cfg, segments=segments, key=keys[0])
    return stack(params, x, cfg, visible, key=keys[1], weights=weights)
