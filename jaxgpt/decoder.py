"""The causal stack: embeddings, blocks that see only the past (and a source), a last norm; with or without a cache."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxgpt.attention import KVCache, Mask, Memory
from jaxgpt.config import ModelConfig
from jaxgpt.embeddings import embed
from jaxgpt.stack import Output, stack


def decoder(
    params: dict,
    tokens: Int[Array, "batch time"],
    cfg: ModelConfig,
    *,
    mask: Bool[Array, "batch time"] | None = None,
    segments: Int[Array, "batch time"] | None = None,
    memory: Memory | None = None,
    cache: KVCache | None = None,
    tree: Bool[Array, "batch time slots"] | None = None,
    key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> Output:
    """Hidden states of tokens that each see themselves and what came before. params: as of `encoder`.

    mask: True at a real token; others take no position and nothing sees them, so padding may stand anywhere.
    segments: for packed rows, which text a token is of (from 1; 0 is padding); texts don't see each other and each
    counts its positions from 0. Not with a mask or a cache.
    memory: the source that cross-attention reads.
    cache: the tokens before these; comes back extended. key: drops activations.
    tree: the slots that each token continues, its own among them: the tokens of a row are then no sequence but
    alternatives, the hypotheses of a beam search say, in one cache. Needs a cache, and no mask.
    """
    if segments is not None and (mask is not None or cache is not None):
        raise ValueError("segments: found a mask or a cache too, expected segments alone (0 marks padding)")
    if tree is not None and (cache is None or mask is not None):
        raise ValueError("tree: found a mask or no cache, expected a cache alone (a token that sees none is padding)")
    visible = Mask(causal=True, window=cfg.window)
    if tree is not None:
        places = tree.sum(-1) - 1
        cache = cache.put(places)
        visible = visible.replace(query_positions=places, key_positions=cache.positions, tree=tree)
    elif cache is not None:
        cache, places = cache.extend(jnp.ones(tokens.shape, bool) if mask is None else mask)
        queries = (places >= 0).astype(jnp.int32)
        # Tokens that fill every slot are all there is: a fused kernel may take them, as without a cache.
        alone = tokens.shape[1] == cache.positions.shape[1]
        visible = visible.replace(
            query_positions=places,
            key_positions=cache.positions,
            query_segments=queries,
            key_segments=queries if alone else (cache.positions >= 0).astype(jnp.int32),
            gaps=True,
        )
    elif mask is not None or segments is not None:
        visible, places = visible.parted(mask, segments)
    else:
        places = jnp.arange(tokens.shape[1])[None]

    keys = (None, None) if key is None else tuple(jax.random.split(key))
    x = embed(params["embedding"], tokens, jnp.maximum(places, 0), cfg, key=keys[0])
    return stack(params, x, cfg, visible, memory=memory, cache=cache, key=keys[1], weights=weights)
