"""The bidirectional stack: embeddings, blocks in which every token sees every other, a last norm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxgpt.attention import Mask
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
    key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> Output:
    """Hidden states of tokens that all see each other. params: "embedding" and what `stack_params` declares.

    mask: True at a real token; others take no position and nothing sees them, so padding may stand anywhere.
    segments: which text of a pair a token is of, a row of the segment table. key: drops activations.
    Source: Devlin et al. 2019, section 3; Vaswani et al. 2017, section 3.1.
    """
    visible, places = Mask(causal=False, window=cfg.window), jnp.arange(tokens.shape[1])[None]
    if mask is not None:
        real, places = mask.astype(jnp.int32), jnp.where(mask, jnp.cumsum(mask, 1) - 1, -1)
        visible = visible.replace(
            query_positions=places, key_positions=places, query_segments=real, key_segments=real, gaps=True
        )
    keys = (None, None) if key is None else tuple(jax.random.split(key))
    x = embed(params["embedding"], tokens, jnp.maximum(places, 0), cfg, segments=segments, key=keys[0])
    return stack(params, x, cfg, visible, key=keys[1], weights=weights)
