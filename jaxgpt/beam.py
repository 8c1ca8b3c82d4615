"""Beam search: the likeliest target of each source, over hypotheses that share one cache.

The beams of a row are no rows of their own but tokens side by side in one cache, each of which sees its ancestors
alone: nothing is copied when a hypothesis dies or splits, and the source's keys are read once for all. The slots are a
ring that all rows fill alike, so that a row whose search has ended can take another source while its neighbours go on.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import seq2seq
from jaxgpt.attention import KVCache, Memory
from jaxgpt.config import ModelConfig

EarlyStopping = bool | Literal["never"]
GROUP = 32  # ids of which `_likeliest` looks at the largest logit first


@struct.dataclass
class Hypotheses:
    """The best of a row first. score: -inf where there is none. length: number of tokens, the end token with them."""

    tokens: Int[Array, "batch beams steps"]
    score: Float[Array, "batch beams"]
    length: Int[Array, "batch beams"]


@struct.dataclass
class Search:
    """Searches under way, a row each. limits: most tokens. age: tokens so far. done: nothing can change any more.

    living.score: the sum of log-probabilities; ended.score: that over the length penalty.
    tree: where each living hypothesis' tokens are in the cache, a ring of beams x steps slots: no row lives longer.
    """

    living: Hypotheses
    ended: Hypotheses
    memory: Memory
    limits: Int[Array, "batch"]
    age: Int[Array, "batch"]
    done: Bool[Array, "batch"]
    tree: Bool[Array, "batch beams slots"]
    cache: KVCache | None  # None within `refill`, which would copy it

    @property
    def full(self) -> Bool[Array, ""]:
        """Whether a living row is as old as the ring: `grow` first."""
        return ((self.age >= self.living.tokens.shape[2]) & ~self.done).any()


def length_penalty(
    length: Int[Array, "*shape"], alpha: Float[Array, ""], offset: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """What a hypothesis' log-probability is divided by: ((offset + length) / (offset + 1)) ** alpha.

    offset 5: Wu et al. 2016, equation 14, without coverage. 0: transformers.
    """
    return ((offset + length) / (offset + 1)) ** alpha


@functools.partial(jax.jit, static_argnames=("cfg", "beams", "steps"))
def begin(memory: Memory, limits: Int[Array, "batch"], cfg: ModelConfig, beams: int, steps: int) -> Search:
    """A search of each source, before its first token; those with a limit of 0 are done."""
    batch = limits.shape[0]
    none = Hypotheses(
        jnp.zeros((batch, beams, steps), jnp.int32),
        jnp.full((batch, beams), -jnp.inf),
        jnp.zeros((batch, beams), jnp.int32),
    )
    # All begin as one: the others are impossible until it splits.
    living = none.replace(score=none.score.at[:, 0].set(0))
    tree = jnp.zeros((batch, beams, beams * steps), bool)
    cache = KVCache.empty(cfg, batch, beams * steps)
    return Search(living, none, memory, limits, jnp.zeros(batch, jnp.int32), limits < 1, tree, cache)


def refill(search: Search, places: Int[Array, "batch"], memory: Memory, limits: Int[Array, "sources"]) -> Search:
    """Begin anew in some rows, with the sources at these places in `memory`; rows with place -1 go on as they were."""
    return _refill(search.replace(cache=None), places, memory, limits).replace(cache=search.cache)


@jax.jit
def _refill(search: Search, places: Array, memory: Memory, limits: Array) -> Search:
    new, beams = places >= 0, search.tree.shape[1]

    def put(old, fresh):
        return jnp.where(new.reshape(-1, *[1] * (old.ndim - 1)), fresh, old)

    def source(old, fresh):
        fresh = fresh[places]
        width = max(old.shape[-2], fresh.shape[-2])
        old, fresh = (jnp.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-2]), (0, 0))) for x in (old, fresh))
        return put(old, fresh)

    def mask(x):
        return x[:, None, :, None]

    keys = jax.tree.map(source, (search.memory.key, search.memory.value), (memory.key, memory.value))
    real = source(mask(search.memory.mask), mask(memory.mask))[:, 0, :, 0]
    return search.replace(
        living=search.living.replace(score=put(search.living.score, jnp.where(jnp.arange(beams) > 0, -jnp.inf, 0))),
        ended=search.ended.replace(score=put(search.ended.score, -jnp.inf)),
        memory=Memory(*keys, real),
        limits=put(search.limits, limits[places]),
        age=put(search.age, 0),
        done=put(search.done, limits[places] < 1),
        tree=put(search.tree, False),
    )


@jax.jit
def grow(search: Search) -> Search:
    """The same searches with twice the steps to go."""
    beams, slots = search.tree.shape[1:]

    def widen(x, axis):
        # From the oldest on, as the ring goes on after its end.
        x = jnp.roll(x, -search.cache.used, axis)
        return jnp.pad(x, [(0, slots if i == axis else 0) for i in range(x.ndim)])

    def lengthen(pool):
        return pool.replace(tokens=jnp.pad(pool.tokens, ((0, 0), (0, 0), (0, slots // beams))))

    cache = search.cache
    keys, values = (tuple(widen(x, 2) for x in arrays) for arrays in (cache.key, cache.value))
    cache = KVCache(keys, values, widen(cache.positions, 1), jnp.full_like(cache.used, slots))
    living, ended = lengthen(search.living), lengthen(search.ended)
    return search.replace(living=living, ended=ended, tree=widen(search.tree, 2), cache=cache)


@functools.partial(jax.jit, static_argnames=("cfg", "early_stopping"), donate_argnames="search")
def advance(
    params: dict,
    search: Search,
    start: Int[Array, ""],
    end: Int[Array, ""],
    known: Bool[Array, "vocab"],
    alpha: Float[Array, ""],
    offset: Float[Array, ""],
    enough: Int[Array, ""],
    cfg: ModelConfig,
    early_stopping: EarlyStopping = "never",
    fewest: Int[Array, ""] | int = 0,
) -> Search:
    """Go on until `enough` rows are done, or the ring is full.

    From the start token (not among the tokens) on, a hypothesis ends with `end` or with its row's limit of tokens; all
    that ended compete by log-probability / length_penalty. alpha: at least 0; 0 compares probabilities, 1 those of a
    token (nearly, but at offset 0). known: the ids that may be chosen. fewest: tokens before an end.
    early_stopping: when a row is done, as in transformers. "never": when no living hypothesis can beat the best that
    ended. False: when none is, at its present length, ahead of the last of `beams` that ended: fewer steps, and seldom
    another end. True: when `beams` have ended, too.
    Source: Sutskever et al. 2014, section 3.2; the pools and the bound of Vaswani et al.'s reference implementation.
    """
    beams, slots = search.tree.shape[1:]

    def unfinished(search: Search):
        return (search.done.sum() < enough) & ~search.full

    def step(search: Search) -> Search:
        living, age = search.living, search.age
        newest = jnp.take_along_axis(living.tokens, jnp.maximum(age - 1, 0)[:, None, None], 2)[:, :, 0]
        last = jnp.where(age[:, None] == 0, start, newest)
        at = search.cache.used % slots
        tree = search.tree | (jnp.arange(slots) == at + jnp.arange(beams)[:, None])
        cache = search.cache.replace(used=at)
        x, cache = seq2seq.hidden(params, search.memory, last, cfg, cache=cache, tree=tree)
        logits = seq2seq.head(params, x, cfg)
        before = living.score - jax.nn.logsumexp(logits, -1)

        # Each beam offers one end at most: among twice as many as go on, enough do not end.
        early = (age < fewest)[:, None, None] & (jnp.arange(logits.shape[-1]) == end)
        possible = jnp.where(known & ~early, logits, -jnp.inf)
        score, parent, token = _likeliest(possible, before, beams * min(2, logits.shape[-1]))
        here = jnp.arange(living.tokens.shape[2]) == age[:, None, None]
        tokens = jnp.where(here, token[..., None], _rows(living.tokens, parent))
        length = jnp.broadcast_to(age[:, None] + 1, token.shape)
        ends, last_step = token == end, (age + 1 >= search.limits)[:, None]

        # The second half of them is there to go on: what ends must be among the best.
        among = jnp.arange(token.shape[1]) < beams
        scaled = jnp.where((ends | last_step) & among, score / length_penalty(length, alpha, offset), -jnp.inf)
        new = Hypotheses(tokens, jnp.where(search.done[:, None], -jnp.inf, scaled), length)
        ended = _best(jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), search.ended, new), beams)
        living, chosen = _best_and_places(Hypotheses(tokens, jnp.where(ends, -jnp.inf, score), length), beams)

        tree = _rows(tree, jnp.take_along_axis(parent, chosen, 1))
        if early_stopping == "never":
            # Log-probabilities only fall, and the longest is divided by most: what a living hypothesis may reach.
            over = ended.score[:, 0] >= living.score[:, 0] / length_penalty(search.limits, alpha, offset)
        else:
            over = ended.score[:, -1] >= living.score[:, 0] / length_penalty(length[:, 0], alpha, offset)
        if early_stopping is True:
            over |= ended.score[:, -1] > -jnp.inf
        done = search.done | over | last_step[:, 0]
        return search.replace(living=living, ended=ended, age=age + 1, done=done, tree=tree, cache=cache)

    return jax.lax.while_loop(unfinished, step, search)


def _likeliest(
    logits: Float[Array, "batch beams vocab"], plus: Float[Array, "batch beams"], n: int
) -> tuple[Float[Array, "batch n"], Int[Array, "batch n"], Int[Array, "batch n"]]:
    """The n largest of logits + plus in each row: the sum, the beam and the id.

    Only groups whose largest is among the n largest are looked into: a fifth of the time of one `top_k` over all.
    """
    batch, beams, vocab = logits.shape
    groups = -(-vocab // GROUP)
    padded = jnp.pad(logits, ((0, 0), (0, 0), (0, groups * GROUP - vocab)), constant_values=-jnp.inf)
    padded = padded.reshape(batch, beams, groups, GROUP)
    largest = (padded.max(-1) + plus[..., None]).reshape(batch, -1)
    _, chosen = jax.lax.top_k(largest, min(n, beams * groups))
    inside = _rows(padded.reshape(batch, -1, GROUP), chosen) + jnp.take_along_axis(plus, chosen // groups, 1)[..., None]
    score, best = jax.lax.top_k(inside.reshape(batch, -1), n)
    group = jnp.take_along_axis(chosen, best // GROUP, 1)
    return score, group // groups, group % groups * GROUP + best % GROUP


def _rows(x: Array, index: Int[Array, "batch beams"]) -> Array:
    """x[b, index[b]] for each b."""
    return jnp.take_along_axis(x, index[..., None], 1)


def _best(pool: Hypotheses, n: int) -> Hypotheses:
    return _best_and_places(pool, n)[0]


def _best_and_places(pool: Hypotheses, n: int) -> tuple[Hypotheses, Int[Array, "batch beams"]]:
    score, places = jax.lax.top_k(pool.score, n)
    return Hypotheses(_rows(pool.tokens, places), score, jnp.take_along_axis(pool.length, places, 1)), places
