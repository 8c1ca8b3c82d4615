"""One Transformer block, and a stack of them: unrolled or scanned, with a choice of what to recompute."""

import jax
from jaxtyping import Array, Float, Key

from jaxgpt import params as P
from jaxgpt.attention import KVCache, Mask, attention, attention_params
from jaxgpt.config import ModelConfig
from jaxgpt.feedforward import dropout, mlp, mlp_params, norm, norm_params
from jaxgpt.sharding import constrain


def block_params(cfg: ModelConfig) -> dict:
    """Attention and MLP, each with its norm."""
    return {
        "attention_norm": norm_params(cfg),
        "attention": attention_params(cfg),
        "mlp_norm": norm_params(cfg),
        "mlp": mlp_params(cfg),
    }


def block(
    params: dict,
    x: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Mask,
    *,
    bias: Float[Array, "#batch heads time keys"] | None = None,
    cache: KVCache | None = None,
    layer: int | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None]:
    """Two residual sublayers. Post-norm: norm(x + f(x)) (Vaswani et al. 2017, section 3.1).

    Pre-norm: x + f(norm(x)) (Xiong et al. 2020, section 3.2).
    """
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    pre = cfg.norm_position == "pre"

    y = norm(params["attention_norm"], x, cfg) if pre else x
    y, cache = attention(params["attention"], y, cfg, mask, bias=bias, cache=cache, layer=layer, dropout_key=keys[0])
    x = x + dropout(y, cfg.dropout, keys[1])
    x = x if pre else norm(params["attention_norm"], x, cfg)

    y = norm(params["mlp_norm"], x, cfg) if pre else x
    x = x + dropout(mlp(params["mlp"], y, cfg), cfg.dropout, keys[2])
    x = x if pre else norm(params["mlp_norm"], x, cfg)
    return constrain(x, "batch", "time", "embed"), cache


def stack_params(cfg: ModelConfig) -> dict:
    """The blocks' parameters, stacked along a leading axis "layers" whether they are scanned or not."""
    return P.stack(block_params(cfg), cfg.n_layers)


def stack(
    params: dict | tuple[dict, ...],
    x: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Mask,
    *,
    bias: Float[Array, "#batch heads time keys"] | None = None,
    cache: KVCache | None = None,
    key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None]:
    """All the blocks. Scanned and unrolled runs agree; with a cache, or given one tree a layer, always unrolled.

    A decode step is small: unrolled it compiles fast, and each layer's cache is written in place.
    """
    keys = None if key is None else jax.random.split(key, cfg.n_layers)

    def train_block(params, x, key):
        return block(params, x, cfg, mask, bias=bias, key=key)[0]

    if cfg.remat == "dots":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        train_block = jax.checkpoint(train_block, policy=policy)
    if cfg.remat == "full":
        train_block = jax.checkpoint(train_block)

    if cfg.scan_layers and cache is None and not isinstance(params, tuple):
        x, _ = jax.lax.scan(lambda x, layer: (train_block(layer[0], x, layer[1]), None), x, (params, keys))
        return x, None

    for i, layer in enumerate(P.unstack(params, cfg.n_layers)):
        layer_key = None if keys is None else keys[i]
        if cache is None:
            x = train_block(layer, x, layer_key)
        else:
            x, cache = block(layer, x, cfg, mask, bias=bias, cache=cache, layer=i, key=layer_key)
    return x, cache
