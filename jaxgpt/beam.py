"""Beam search: the likeliest target of each source, over hypotheses that share one cache.

The beams of a row are no rows of their own but tokens side by side in one cache, each of which sees its ancestors
alone: nothing is copied when a hypothesis dies or splits, and the source's keys are read once for all.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxgpt import seq2seq
from jaxgpt.attention import KVCache, Memory
from jaxgpt.config import ModelConfig


@struct.dataclass
class Hypotheses:
    """The best of a row first. score: -inf where there is none. length: number of tokens, the end token with them."""

    tokens: Int[Array, "batch beams steps"]
    score: Float[Array, "batch beams"]
    length: Int[Array, "batch beams"]


@struct.dataclass
class _Search:
    living: Hypotheses  # score: the sum of log-probabilities
    ended: Hypotheses  # score: that sum over the length penalty
    tree: Bool[Array, "batch beams slots"]
    cache: KVCache
    done: Bool[Array, "batch"]
    step: Int[Array, ""]


def length_penalty(length: Int[Array, "*shape"], alpha: Float[Array, ""]) -> Float[Array, "*shape"]:
    """What a hypothesis' log-probability is divided by. Source: Wu et al. 2016, equation 14, without coverage."""
    return ((5 + length) / 6) ** alpha


@functools.partial(jax.jit, static_argnames=("cfg", "beams", "steps", "early_stopping"))
def search(
    params: dict,
    memory: Memory,
    limits: Int[Array, "batch"],
    start: Int[Array, ""],
    end: Int[Array, ""],
    known: Bool[Array, "vocab"],
    alpha: Float[Array, ""],
    cfg: ModelConfig,
    beams: int,
    steps: int,
    early_stopping: bool = False,
) -> Hypotheses:
    """The `beams` best targets of each source that were found, from the start token (not among their tokens) on.

    A hypothesis ends with `end` or with its row's limit of tokens (at most `steps`); all that ended compete by
    log-probability / length_penalty. alpha: at least 0; 0 compares probabilities, 1 nearly those of a token.
    known: the ids that may be chosen. A row's search ends when no living hypothesis can beat the best that ended; with
    early_stopping when none is, at its present length, ahead of the last of `beams` that ended (as transformers does by
    default): fewer steps, and seldom another end.
    Source: Sutskever et al. 2014, section 3.2; the pools and the bound of Vaswani et al.'s reference implementation.
    """
    batch, vocab = limits.shape[0], cfg.vocab_size
    none = Hypotheses(
        jnp.zeros((batch, beams, steps), jnp.int32),
        jnp.full((batch, beams), -jnp.inf),
        jnp.zeros((batch, beams), jnp.int32),
    )
    # All begin as one: the others are impossible until it splits.
    living = none.replace(score=none.score.at[:, 0].set(0))
    tree = jnp.zeros((batch, beams, beams * steps), bool).at[:, :, :beams].set(jnp.eye(beams, dtype=bool))
    cache = KVCache.empty(cfg, batch, beams * steps)
    first = _Search(living, none, tree, cache, limits < 1, jnp.array(0))

    def unfinished(search: _Search):
        return (search.step < steps) & ~search.done.all()

    def advance(search: _Search) -> _Search:
        living, step = search.living, search.step
        last = jnp.where(step == 0, start, living.tokens[:, :, step - 1])
        x, cache = seq2seq.hidden(params, memory, last, cfg, cache=search.cache, tree=search.tree)
        logits = seq2seq.head(params, x, cfg)
        logprobs = jnp.where(known, jax.nn.log_softmax(logits), -jnp.inf)
        total = living.score[..., None] + logprobs

        # Each beam offers one end at most: among twice as many as go on, enough do not end.
        score, best = jax.lax.top_k(total.reshape(batch, -1), beams * min(2, vocab))
        parent, token = best // vocab, best % vocab
        tokens = _rows(living.tokens, parent).at[:, :, step].set(token)
        length = jnp.full_like(token, step + 1)
        ends, last_step = token == end, (step + 1 == limits)[:, None]

        scaled = jnp.where(ends | last_step, score / length_penalty(length, alpha), -jnp.inf)
        new = Hypotheses(tokens, jnp.where(search.done[:, None], -jnp.inf, scaled), length)
        ended = _best(jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), search.ended, new), beams)
        living, chosen = _best_and_places(Hypotheses(tokens, jnp.where(ends, -jnp.inf, score), length), beams)

        ancestors = _rows(search.tree, jnp.take_along_axis(parent, chosen, 1))
        own = cache.used + jnp.arange(beams)
        tree = ancestors | (jnp.arange(beams * steps) == own[:, None])
        if early_stopping:
            enough = ended.score[:, -1] >= living.score[:, 0] / length_penalty(length[:, 0], alpha)
        else:
            # Log-probabilities only fall, and the longest is divided by most: what a living hypothesis may reach.
            enough = ended.score[:, 0] >= living.score[:, 0] / length_penalty(limits, alpha)
        return _Search(living, ended, tree, cache, search.done | enough | last_step[:, 0], step + 1)

    return jax.lax.while_loop(unfinished, advance, first).ended


def _rows(x: Array, index: Int[Array, "batch beams"]) -> Array:
    """x[b, index[b]] for each b."""
    return jnp.take_along_axis(x, index[..., None], 1)


def _best(pool: Hypotheses, n: int) -> Hypotheses:
    return _best_and_places(pool, n)[0]


def _best_and_places(pool: Hypotheses, n: int) -> tuple[Hypotheses, Int[Array, "batch beams"]]:
    score, places = jax.lax.top_k(pool.score, n)
    return Hypotheses(_rows(pool.tokens, places), score, jnp.take_along_axis(pool.length, places, 1)), places
