"""The compiled parts of generation: encode prompts into a cache, then loop over tokens without leaving the device.

Rows stand with their ends aligned: a row's n tokens are in the cache's slots [used - n, used).
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt import gpt, sampling, seq2seq
from jaxgpt.attention import KVCache, Memory
from jaxgpt.config import ModelConfig

CHUNK = 32  # most tokens a dispatch: looking at them costs the host less than a hundredth of making them


@struct.dataclass
class Rows:
    """Texts under way, beside their cache; the rows come first everywhere, so that one index reorders both.

    token: chosen last, and not in the cache yet; -1 once the row has ended. count: tokens chosen so far.
    seen: the tokens of prompt and text, where a repetition penalty asks for them.
    """

    token: Int[Array, "batch"]
    ended: Bool[Array, "batch"]
    key: Key[Array, "batch"]
    count: Int[Array, "batch"]
    seen: Bool[Array, "batch vocab"] | None


@functools.partial(jax.jit, static_argnames=("cfg", "slots", "copies"))
def prefill(
    params: dict,
    tokens: Int[Array, "batch time"],
    lengths: Int[Array, "batch"],
    cfg: ModelConfig,
    slots: int,
    copies: int = 1,
) -> tuple[Float[Array, "rows vocab"], KVCache]:
    """Encode prompts that stand at the right end of `tokens`: the next token's logits, and a cache with room.

    Each row comes out `copies` times, one below the other.
    """
    batch, time = tokens.shape
    mask = jnp.arange(time) >= time - lengths[:, None]
    x, cache = gpt.hidden(params, tokens, cfg, mask=mask, cache=KVCache.empty(cfg, batch, time))

    return jnp.repeat(gpt.head(params, x[:, -1:], cfg)[:, 0], copies, axis=0), widen(cache, cfg, slots, copies)


def widen(cache: KVCache, cfg: ModelConfig, slots: int, copies: int = 1) -> KVCache:
    """The same cache with room for `slots` tokens in all, each row `copies` times, one below the other."""

    def put(old, x):
        return jax.lax.dynamic_update_slice(old, jnp.repeat(x, copies, axis=0), (0,) * x.ndim)

    wide = KVCache.empty(cfg, len(cache.positions) * copies, slots)
    return _map(put, wide, cache).replace(used=cache.used)


@functools.partial(jax.jit, static_argnames="cfg")
def read_sources(
    params: dict, sources: Int[Array, "batch source"], lengths: Int[Array, "batch"], cfg: ModelConfig
) -> Memory:
    """Encode sources that stand at the left end of their rows, once for all the tokens of their targets."""
    mask = jnp.arange(sources.shape[1]) < lengths[:, None]
    encoded = seq2seq.encode(params, sources, cfg, source_mask=mask)
    return seq2seq.remember(params, encoded, cfg, source_mask=mask)


def choose(
    rows: Rows,
    logits: Float[Array, "batch vocab"],
    settings: dict,
    ends: Bool[Array, "vocab"],
    known: Bool[Array, "vocab"],
) -> tuple[Rows, Float[Array, "batch"]]:
    """Each row's next token, one of the `known` ids, and its log-probability in softmax(logits), before any filter."""
    possible = jnp.where(known, logits, -jnp.inf)
    keys = jax.vmap(jax.random.fold_in)(rows.key, rows.count)
    token = sampling.choose(keys, possible, settings, rows.seen).astype(jnp.int32)
    logprob = jnp.take_along_axis(logits, token[:, None], 1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
    token = jnp.where(rows.ended, -1, token)
    index = jnp.arange(len(token))
    seen = None if rows.seen is None else rows.seen.at[index, token].max(~rows.ended)
    return Rows(token, rows.ended | ends[token], rows.key, rows.count + 1, seen), logprob


choose_first = jax.jit(choose, donate_argnames="rows")


@functools.partial(jax.jit, static_argnames="cfg", donate_argnames=("cache", "rows"))
def decode_chunk(
    params: dict,
    cache: KVCache,
    rows: Rows,
    settings: dict,
    ends: Bool[Array, "vocab"],
    known: Bool[Array, "vocab"],
    steps: Int[Array, ""],
    cfg: ModelConfig,
    memory: Memory | None = None,
) -> tuple[KVCache, Rows, Int[Array, "batch chunk"], Float[Array, "batch chunk"]]:
    """Up to `steps` tokens more for each row that has not ended, stopping where all have; -1 where there is none.

    memory: the sources, in an encoder-decoder.
    """
    batch = rows.token.shape[0]

    def unfinished(carry):
        _, rows, _, _, made = carry
        return (made < steps) & ~rows.ended.all()

    def step(carry):
        cache, rows, tokens, logprobs, made = carry
        token, mask = rows.token[:, None], ~rows.ended[:, None]
        if memory is None:
            logits, cache = gpt.apply(params, token, cfg, mask=mask, cache=cache)
        else:
            logits, cache = seq2seq.decode(params, memory, token, cfg, mask=mask, cache=cache)
        rows, logprob = choose(rows, logits[:, 0], settings, ends, known)
        return cache, rows, tokens.at[:, made].set(rows.token), logprobs.at[:, made].set(logprob), made + 1

    nothing = jnp.full((batch, CHUNK), -1, jnp.int32), jnp.zeros((batch, CHUNK))
    return jax.lax.while_loop(unfinished, step, (cache, rows, *nothing, jnp.array(0)))[:4]


@functools.partial(jax.jit, donate_argnames="cache")
def replace_row(cache: KVCache, row: Int[Array, ""], new: KVCache) -> KVCache:
    """The cache with one row forgotten and the row of `new` in its place, their ends aligned."""

    def put(old, x):
        start = cache.used - new.used
        return jax.lax.dynamic_update_slice(old, x, (row, start) if x.ndim == 2 else (row, 0, start, 0))

    return _map(put, cache.replace(positions=cache.positions.at[row].set(-1)), new)


@functools.partial(jax.jit, donate_argnames="cache")
def shift_left(cache: KVCache, by: Int[Array, ""]) -> KVCache:
    """Drop the first slots, which no living row fills, and make room on the right."""
    cache = _map(lambda x: jnp.roll(x, -by, axis=1 if x.ndim == 2 else 2), cache)
    return cache.replace(used=cache.used - by)


def _map(function, cache: KVCache, *others: KVCache) -> KVCache:
    """The cache with the function of each array that has rows in its place."""
    return jax.tree.map(lambda x, *ys: function(x, *ys) if x.ndim else x, cache, *others)
