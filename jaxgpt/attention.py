"""Masks, scaled dot-product attention, the attention layer and its key/value cache.

Letters: B batch, T query time, S key time, D d_model, H heads, G kv heads, R = H/G, K head_dim.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import kernels
from jaxgpt.config import ModelConfig
from jaxgpt.feedforward import dropout, linear, linear_params, norm, residual_std
from jaxgpt.params import scale
from jaxgpt.rotary import rotate
from jaxgpt.sharding import constrain

QUERY_BLOCK = 128  # rows of scores computed at once under a plain causal mask


def causal_mask(
    query_positions: Int[Array, "#batch time"], key_positions: Int[Array, "#batch keys"]
) -> Bool[Array, "#batch time keys"]:
    """A query sees the keys at its own position and before."""
    return key_positions[:, None, :] <= query_positions[:, :, None]


def window_mask(
    query_positions: Int[Array, "#batch time"], key_positions: Int[Array, "#batch keys"], window: int
) -> Bool[Array, "#batch time keys"]:
    """A query sees the keys less than `window` positions before it or, but for a causal mask, after it.

    Source: Beltagy et al. 2020, section 3.1; the window counts the query itself, as in Mistral.
    """
    return jnp.abs(query_positions[:, :, None] - key_positions[:, None, :]) < window


def segment_mask(
    query_segments: Int[Array, "#batch time"], key_segments: Int[Array, "#batch keys"]
) -> Bool[Array, "#batch time keys"]:
    """A query sees the keys of its own segment; segment 0 is padding, which nothing sees.

    A padding mask, True at real tokens, is the case of one segment: `mask.astype(int)`.
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return same & (key_segments > 0)[:, None, :]


def segment_runs(
    segments: Int[Array, "batch time"],
) -> tuple[Int[Array, "batch time"], Int[Array, "batch time"]]:
    """Each run of equal numbers by its own number, and each token's place in its run; padding (0) has 0 and -1."""
    index = jnp.arange(segments.shape[1])[None]
    starts = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
    places = index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return jnp.where(segments > 0, starts.cumsum(1), 0), jnp.where(segments > 0, places, -1)


@struct.dataclass
class Mask:
    """Which keys a query may see, as its causes: a flash kernel is told what the plain formula is shown.

    query_positions, key_positions: places in each row's own sequence. None: 0, 1, 2, ... in both.
    query_segments, key_segments: see `segment_mask`. None: all one segment.
    tree: what a query may see at most, where the tokens of a row are no sequence. None: everything.
    gaps: padding may stand between two tokens of a segment, so that slots tell no distance.
    """

    causal: bool = struct.field(pytree_node=False)
    window: int | None = struct.field(pytree_node=False, default=None)
    query_positions: Int[Array, "#batch time"] | None = None
    key_positions: Int[Array, "#batch keys"] | None = None
    query_segments: Int[Array, "#batch time"] | None = None
    key_segments: Int[Array, "#batch keys"] | None = None
    tree: Bool[Array, "#batch time keys"] | None = None
    gaps: bool = struct.field(pytree_node=False, default=False)

    def parted(
        self, mask: Bool[Array, "batch time"] | None, segments: Int[Array, "batch time"] | None
    ) -> tuple["Mask", Int[Array, "batch time"]]:
        """The same of rows with padding (mask) or of packed ones (segments), and each token's place in its text; -1:
        padding, which may stand anywhere where there is a mask."""
        if mask is None:
            runs, places = segment_runs(segments)
        else:
            runs, places = mask.astype(jnp.int32), jnp.where(mask, jnp.cumsum(mask, 1) - 1, -1)
        return self.replace(
            query_positions=places,
            key_positions=places,
            query_segments=runs,
            key_segments=runs,
            gaps=mask is not None,
        ), places

    def places(self, time: int) -> tuple[Int[Array, "#batch time"], Int[Array, "#batch"]]:
        """Each query's place, and the length of its row so far."""
        queries = jnp.arange(time)[None] if self.query_positions is None else self.query_positions
        return queries, (queries if self.key_positions is None else self.key_positions).max(1) + 1

    def dense(self, time: int, keys: int) -> Bool[Array, "#batch time keys"]:
        """The same as an array, True where the query may see the key."""
        queries, _ = self.places(time)
        places = jnp.arange(keys)[None] if self.key_positions is None else self.key_positions
        seen = jnp.ones((1, time, keys), bool)
        if self.causal:
            seen &= causal_mask(queries, places)
        if self.window is not None:
            seen &= window_mask(queries, places, self.window)
        if self.query_segments is not None:
            seen &= segment_mask(self.query_segments, self.key_segments)
        return seen if self.tree is None else seen & self.tree


def attend(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch keys kv_heads head_dim"],
    value: Float[Array, "batch keys kv_heads head_dim"],
    mask: Bool[Array, "#batch time keys"],
    *,
    bias: Float[Array, "#batch heads time keys"] | None = None,
    rate: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "batch time heads head_dim"]:
    """Scaled dot-product attention; each run of heads/kv_heads query heads shares one key/value head.

    mask: True where the query may see the key. A query that sees nothing gets zeros, never NaN.
    bias: added to the scaled scores. Scores and softmax are float32, scaled by head_dim**-0.5; the result has
    query's dtype. `rate` of the weights is dropped where a key is given.
    Raises ValueError if kv_heads does not divide heads.
    Source: Vaswani et al. 2017, section 3.2.1; groups: Ainslie et al. 2023, section 2.2.
    """
    weights, total = _exponentials(query, key, mask, bias)
    weights = dropout(weights, rate, dropout_key)
    batch, _, time, keys = weights.shape
    grouped = weights.reshape(batch, value.shape[2], -1, time, keys).astype(value.dtype)
    # Values first: the other way XLA's CPU runs no bfloat16 product of a cache's values, which are laid out by heads.
    out = jnp.einsum("BSGK,BGRTS->BTGRK", value, grouped, preferred_element_type=jnp.float32).reshape(query.shape)
    # Normalised after the product: head_dim numbers a query, not as many as it has keys.
    return (out / total.swapaxes(1, 2)).astype(query.dtype)


def attention_weights(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch keys kv_heads head_dim"],
    mask: Bool[Array, "#batch time keys"],
    *,
    bias: Float[Array, "#batch heads time keys"] | None = None,
) -> Float[Array, "batch heads time keys"]:
    """softmax(query key^T / sqrt(head_dim) + bias) over the keys that the mask shows, as `attend` weighs the values."""
    weights, total = _exponentials(query, key, mask, bias)
    return weights / total


def _exponentials(
    query: Array, key: Array, mask: Array, bias: Array | None
) -> tuple[Float[Array, "batch heads time keys"], Float[Array, "batch heads time 1"]]:
    """exp(score - the row's largest), 0 where the mask hides the key, and each row's sum (1 where it sees nothing)."""
    (batch, time, heads, head_dim), kv_heads = query.shape, key.shape[2]
    if heads % kv_heads:
        raise ValueError(f"attend: found {kv_heads} kv heads, expected a divisor of {heads} heads")
    grouped = query.reshape(batch, time, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("BTGRK,BSGK->BGRTS", grouped * head_dim**-0.5, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, time, -1)
    if bias is not None:
        scores = scores + bias
    # A row that sees nothing has its largest at 0, so that every exp is 0.
    scores = jnp.where(mask[:, None], scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(largest), largest, 0))
    total = weights.sum(-1, keepdims=True)
    return weights, jnp.where(total == 0, 1, total)


def attend_by_blocks(
    query: Float[Array, "batch time heads head_dim"],
    key: Float[Array, "batch time kv_heads head_dim"],
    value: Float[Array, "batch time kv_heads head_dim"],
    mask: Mask,
) -> Float[Array, "batch time heads head_dim"]:
    """`attend` under a causal mask over places 0, 1, 2, ...: each block of queries reads only the keys up to its end.

    Skips the half of the scores that the mask would hide.
    """
    time = query.shape[1]
    seen = mask.dense(time, time)
    blocks = []
    for start in range(0, time, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, time)
        blocks.append(attend(query[:, start:end], key[:, :end], value[:, :end], seen[:, start:end, :end]))
    return jnp.concatenate(blocks, axis=1)


@struct.dataclass
class KVCache:
    """Keys and values of the tokens so far, one array a layer, in slots that all rows fill alike.

    Heads before slots: a decode step's attention at batch 8 takes a fifth of the time, as no product transposes first.
    positions: each slot's place in its row's own sequence, -1 where there is none (empty, or padding).
    used: number of slots filled. Writing past the last slot is the caller's mistake: it overwrites the end.
    """

    key: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    value: tuple[Float[Array, "batch kv_heads slots head_dim"], ...]
    positions: Int[Array, "batch slots"]
    used: Int[Array, ""]

    @classmethod
    def empty(cls, cfg: ModelConfig, batch: int, slots: int | None = None) -> "KVCache":
        """No tokens yet; room for `slots` of them (None: context_length)."""
        slots = cfg.context_length if slots is None else slots
        shape = (batch, cfg.kv_heads, slots, cfg.head_width)

        def zeros():
            return tuple(jnp.zeros(shape, cfg.dtype) for _ in range(cfg.n_layers))

        nowhere = jnp.full((batch, slots), -1, jnp.int32)
        # Typed: a weak type would make a loop over tokens compile once more when its cache comes back.
        return cls(zeros(), zeros(), nowhere, jnp.array(0, jnp.int32))

    def extend(self, mask: Bool[Array, "batch time"]) -> tuple["KVCache", Int[Array, "batch time"]]:
        """Give the next `time` slots their positions: real tokens (mask True) count on from each row's last."""
        length = self.positions.max(1, keepdims=True) + 1
        places = jnp.where(mask, length + jnp.cumsum(mask, 1) - 1, -1)
        return self.put(places), places

    def put(self, places: Int[Array, "batch time"]) -> "KVCache":
        """Give the next `time` slots these positions."""
        places = places.astype(self.positions.dtype)
        positions = jax.lax.dynamic_update_slice(self.positions, places, (0, self.used))
        return self.replace(positions=positions, used=self.used + places.shape[1])

    def write(
        self,
        layer: int,
        key: Float[Array, "batch time kv_heads head_dim"],
        value: Float[Array, "batch time kv_heads head_dim"],
    ) -> "KVCache":
        """Put one layer's new keys and values in the slots that `extend` just gave out."""
        start = (0, 0, self.used - key.shape[1], 0)

        def put(arrays, new):
            old = arrays[layer]
            new = jax.lax.dynamic_update_slice(old, new.swapaxes(1, 2).astype(old.dtype), start)
            return (*arrays[:layer], new, *arrays[layer + 1 :])

        return self.replace(key=put(self.key, key), value=put(self.value, value))

    def read(
        self, layer: int
    ) -> tuple[Float[Array, "batch slots kv_heads head_dim"], Float[Array, "batch slots kv_heads head_dim"]]:
        """One layer's keys and values in every slot, in the order of `attend`."""
        return self.key[layer].swapaxes(1, 2), self.value[layer].swapaxes(1, 2)


Source = Float[Array, "batch kv_heads source head_dim"]
PerLayer = tuple[Source, ...] | Float[Array, "layers batch kv_heads source head_dim"]


@struct.dataclass
class Memory:
    """What cross-attention reads: every decoder layer's keys and values of the source, computed once.

    One array a layer, or one of all layers where they are scanned; heads before slots, as in KVCache.
    mask: True at a real token of the source.
    """

    key: PerLayer
    value: PerLayer
    mask: Bool[Array, "batch source"]


def attention_params(cfg: ModelConfig) -> dict:
    """Projections to queries, keys and values, and from all heads back to d_model; gains of heads, if normalised."""
    embed, std = {"embed": cfg.d_model}, cfg.init_std
    biases = cfg.attention_bias or ("all" if cfg.bias else "none")
    inputs = biases in ("inputs", "all")
    heads = {"heads": cfg.n_heads, "head_dim": cfg.head_width}
    kv_heads = {"kv_heads": cfg.kv_heads, "head_dim": cfg.head_width}
    params = {
        "query": linear_params(embed, heads, std, inputs),
        "key": linear_params(embed, kv_heads, std, inputs),
        "value": linear_params(embed, kv_heads, std, inputs),
        "output": linear_params(heads, embed, residual_std(cfg), biases == "all"),
    }
    if cfg.qk_norm:
        params |= {name: {"scale": scale((cfg.head_width,), ("head_dim",))} for name in ("query_norm", "key_norm")}
    return params


def keys_and_values(
    params: dict, x: Float[Array, "batch keys d_model"], cfg: ModelConfig
) -> tuple[Float[Array, "batch keys kv_heads head_dim"], Float[Array, "batch keys kv_heads head_dim"]]:
    """What queries attend to."""
    key = constrain(linear(params["key"], x), "batch", None, "kv_heads", "head_dim")
    key = norm(params["key_norm"], key, cfg) if cfg.qk_norm else key
    return key, constrain(linear(params["value"], x), "batch", None, "kv_heads", "head_dim")


def attention(
    params: dict,
    x: Float[Array, "batch time d_model"],
    cfg: ModelConfig,
    mask: Mask,
    *,
    source: tuple[Source, Source] | None = None,
    bias: Float[Array, "#batch heads time keys"] | None = None,
    cache: KVCache | None = None,
    layer: int | None = None,
    dropout_key: Key[Array, ""] | None = None,
    weights: bool = False,
) -> tuple[Float[Array, "batch time d_model"], KVCache | None, Float[Array, "batch heads time keys"] | None]:
    """Multi-head attention: project, rotate if positions are rotary, attend, project back.

    source: the keys and values of another sequence, as in a Memory (None: those of x itself, which see positions).
    With a cache, the keys are those of `layer` in it, the new ones written first.
    weights: return also what each query gave each key, before dropout.
    Source: Vaswani et al. 2017, section 3.2.2.
    """
    query = constrain(linear(params["query"], x), "batch", "time", "heads", "head_dim")
    query = norm(params["query_norm"], query, cfg) if cfg.qk_norm else query
    if cfg.attention_scale is not None:
        query = query * (cfg.attention_scale * cfg.head_width**0.5)  # `attend` and the kernels divide by the root
    if source is not None:
        key, value = (array.swapaxes(1, 2) for array in source)
    else:
        key, value = keys_and_values(params, x, cfg)
        if cfg.position == "rotary":
            places, lengths = mask.places(x.shape[1])
            query, key = rotate(query, places, cfg, lengths), rotate(key, places, cfg, lengths)
        if cache is not None:
            cache = cache.write(layer, key, value)
            key, value = cache.read(layer)

    drops = cfg.dropout > 0 and dropout_key is not None
    match kernels.choose(cfg.attention, query, key, mask, plain=bias is None and not drops):
        case "splash":
            out = kernels.splash(query, key, value, mask)
        case "cudnn":
            out = kernels.cudnn(query, key, value, mask)
        case "blocks":
            out = attend_by_blocks(query, key, value, mask)
        case "xla":
            seen = mask.dense(query.shape[1], key.shape[1])
            out = attend(query, key, value, seen, bias=bias, rate=cfg.dropout, dropout_key=dropout_key)
    shown = None
    if weights:
        shown = attention_weights(query, key, mask.dense(query.shape[1], key.shape[1]), bias=bias)
    return linear(params["output"], out), cache, shown
