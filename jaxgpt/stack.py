"""One Transformer block, and a stack of them: unrolled or scanned, with a choice of what to recompute."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache, Mask, Memory, Source, attention, attention_params, keys_and_values
from jaxgpt.config import ModelConfig
from jaxgpt.embeddings import relative_bias, relative_params
from jaxgpt.feedforward import dropout, mlp, mlp_params, norm, norm_params
from jaxgpt.sharding import constrain


class Weights(NamedTuple):
    """What the queries of a block gave each key; of a stack, all blocks one above the other."""

    own: Float[Array, "*layers batch heads time keys"]
    cross: Float[Array, "*layers batch heads time source"] | None


class Output(NamedTuple):
    """The states; the cache, extended, where one was given; the attention weights where they were asked for."""

    x: Float[Array, "batch time d_model"]
    cache: KVCache | None
    weights: Weights | None


def block_params(cfg: ModelConfig, cross: bool = False) -> dict:
    """Attention and MLP, and between them cross-attention if asked for, each with its norm."""
    params = {"attention_norm": norm_params(cfg), "attention": attention_params(cfg)}
    if cross:
        params |= {"cross_norm": norm_params(cfg), "cross": attention_params(cfg)}
    return params | {"mlp_norm": norm_params(cfg), "mlp": mlp_params(cfg)}


def block(
    params: dict,
    x: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Mask,
    *,
    bias: Float[Array, "#batch heads time keys"] | None = None,
    source: tuple[Source, Source] | None = None,
    source_mask: Bool[Array, "batch source"] | None = None,
    cache: KVCache | None = None,
    layer: int | None = None,
    key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> Output:
    """Residual sublayers. Post-norm: norm(x + f(x)) (Vaswani et al. 2017, section 3.1).

    Pre-norm: x + f(norm(x)) (Xiong et al. 2020, section 3.2).
    source, source_mask: this layer's part of a Memory, in a block with cross-attention.
    """
    keys = (None,) * 5 if key is None else jax.random.split(key, 5)
    pre = cfg.norm_position == "pre"
    cross = None

    y = norm(params["attention_norm"], x, cfg) if pre else x
    y, cache, own = attention(
        params["attention"], y, cfg, mask, bias=bias, cache=cache, layer=layer, dropout_key=keys[0], weights=weights
    )
    x = x + dropout(y, cfg.dropout, keys[1])
    x = x if pre else norm(params["attention_norm"], x, cfg)

    if "cross" in params:
        y = norm(params["cross_norm"], x, cfg) if pre else x
        everyone = jnp.ones((1, x.shape[1]), jnp.int32)
        real = Mask(causal=False, query_segments=everyone, key_segments=source_mask.astype(jnp.int32))
        y, _, cross = attention(params["cross"], y, cfg, real, source=source, dropout_key=keys[3], weights=weights)
        x = x + dropout(y, cfg.dropout, keys[4])
        x = x if pre else norm(params["cross_norm"], x, cfg)

    y = norm(params["mlp_norm"], x, cfg) if pre else x
    x = x + dropout(mlp(params["mlp"], y, cfg), cfg.dropout, keys[2])
    x = x if pre else norm(params["mlp_norm"], x, cfg)
    return Output(constrain(x, "batch", "time", "embed"), cache, Weights(own, cross) if weights else None)


def stack_params(cfg: ModelConfig, n_layers: int, cross: bool = False) -> dict:
    """The blocks, stacked along a leading axis "layers" whether they are scanned or not; relative positions' biases.

    Pre-norm stacks end in a norm.
    """
    params = {"layers": P.stack(block_params(cfg, cross), n_layers)}
    if cfg.position == "relative":
        params["relative"] = relative_params(cfg)
    if cfg.norm_position == "pre":
        params["final_norm"] = norm_params(cfg)
    return params


def memory_of(
    layers: dict | tuple[dict, ...],
    encoded: Float[Array, "batch source d_model"],
    cfg: ModelConfig,
    mask: Bool[Array, "batch source"],
) -> Memory:
    """The encoder's output as each of these layers' cross-attention will read it."""

    def read(cross):
        return tuple(array.swapaxes(1, 2) for array in keys_and_values(cross, encoded, cfg))

    if cfg.scan_layers and not isinstance(layers, tuple):
        return Memory(*jax.vmap(read)(layers["cross"]), mask)
    keys, values = zip(*(read(layer["cross"]) for layer in P.unstack(layers, cfg.n_layers)), strict=True)
    return Memory(keys, values, mask)


def stack(
    params: dict,
    x: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Mask,
    *,
    memory: Memory | None = None,
    cache: KVCache | None = None,
    key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> Output:
    """All the blocks and the last norm. Scanned and unrolled runs agree.

    Always unrolled with a cache, for weights, or given one tree a layer: a decode step is small, compiles fast so, and
    writes each layer's cache in place.
    """
    bias = None
    if "relative" in params:
        time = jnp.arange(x.shape[1])[None]
        queries = time if mask.query_positions is None else mask.query_positions
        keys = time if mask.key_positions is None else mask.key_positions
        bias = relative_bias(params["relative"], queries, keys, cfg, bidirectional=not mask.causal)
    layers, found = params["layers"], []
    n_layers = len(layers) if isinstance(layers, tuple) else jax.tree.leaves(layers)[0].shape[0]
    keys = None if key is None else jax.random.split(key, n_layers)
    source_mask = None if memory is None else memory.mask

    def train_block(x, layer, source, key):
        return block(layer, x, cfg, mask, bias=bias, source=source, source_mask=source_mask, key=key).x

    if cfg.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        train_block = jax.checkpoint(train_block, policy=policy)
    if cfg.remat == "full":
        train_block = jax.checkpoint(train_block)

    unstacked = isinstance(layers, tuple) or (memory is not None and isinstance(memory.key, tuple))
    if cfg.scan_layers and cache is None and not weights and not unstacked:
        sources = None if memory is None else (memory.key, memory.value)
        x, _ = jax.lax.scan(lambda x, layer: (train_block(x, *layer), None), x, (layers, sources, keys))
    else:
        for i, layer in enumerate(P.unstack(layers, n_layers)):
            layer_key = None if keys is None else keys[i]
            source = None if memory is None else (memory.key[i], memory.value[i])
            if cache is None and not weights:
                x = train_block(x, layer, source, layer_key)
                continue
            x, cache, seen = block(
                layer, x, cfg, mask, bias=bias, source=source, source_mask=source_mask,
                cache=cache, layer=i, key=layer_key, weights=weights,
            )  # fmt: skip
            found.append(seen)
    if "final_norm" in params:
        x = norm(params["final_norm"], x, cfg)
    return Output(x, cache, jax.tree.map(lambda *arrays: jnp.stack(arrays), *found) if weights else None)
