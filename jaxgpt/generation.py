"""Text from a model: what the host does around the compiled loop of `decoding`.

Shapes are rounded up to powers of two, so that a new prompt length seldom compiles anything.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.decoding import CHUNK, Rows, choose_first, decode_chunk, prefill, replace_row, shift_left
from jaxgpt.model import Model, prepare
from jaxgpt.rotary import at_length, switches_at
from jaxgpt.sampling import Sampler
from jaxgpt.tokenizers import StreamedText

WATCHED_CHUNK = 4  # tokens a dispatch where someone waits for them, or a stop string may end the text
GREEDY = Sampler()


def generate(
    model: Model,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    repetition_penalty: float | int | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int = 0,
    num_samples: int | None = None,
) -> str | list:
    """The text that follows each prompt: a str for a str, a list for a list; with num_samples, a list of them each.

    Ends after max_new_tokens, at any of the model's end tokens, or before the first of the `stop` strings; no banned
    token is chosen: see `GenerationDefaults`, of which nothing else acts here.
    The numbers are those of `Sampler`. seed, prompt and sample decide a text, not the prompts beside it (in float32:
    what a lower precision rounds depends on the batch). A prompt is framed as the tokenizer says (<s> prompt, Llama's);
    where nothing is added an empty one starts from `Tokenizer.start`.
    Past context_length: see `generate_tokens`.
    Raises ValueError, before any work, where a number, a prompt or a stop string can't be used.
    """
    sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    many = [prompts] if isinstance(prompts, str) else list(prompts)
    copies = 1 if num_samples is None else num_samples
    found = _pieces(model, many, max_new_tokens, sampler, stop, seed, copies)
    texts = ["".join(row) for row in zip(*found, strict=True)]
    if num_samples is not None:
        texts = [texts[i : i + copies] for i in range(0, len(texts), copies)]
    return texts[0] if isinstance(prompts, str) else texts


def stream(
    model: Model,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    repetition_penalty: float | int | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[str]:
    """The text of `generate` with the same arguments, in pieces as it comes.

    No piece ends within a character; what may be the beginning of a stop string is held back.
    """
    sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    found = _pieces(model, [prompt], max_new_tokens, sampler, stop, seed, 1, WATCHED_CHUNK)
    return (piece for (piece,) in found if piece)


def pieces(
    model: Model,
    prompts: Sequence[Sequence[int]],
    keys: Key[Array, "rows"],
    *,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    stop: Sequence[str] = (),
    end_tokens: Iterable[int] | None = None,
    num_samples: int = 1,
    chunk: int = CHUNK,
    alone: bool = False,
) -> Iterator[list[str]]:
    """The next piece of each row's text, again and again; prompts are tokens, as the model is to read them.

    keys: one a row, as of `row_keys`. end_tokens: None for the model's own. chunk: most tokens a piece.
    alone: the new tokens are decoded by themselves, without special ones, and a text goes on to the end of the token
    that completes a stop string, as in transformers; otherwise a text goes on from its prompt, and ends before it.
    Raises ValueError, here and not at the first piece, for what can't be used.
    """
    cfg, tokenizer = model.inference_config, model.tokenizer
    if "" in stop:
        raise ValueError("stop: found '', expected strings of at least one character")
    ends = frozenset(model.generation.end_tokens if end_tokens is None else end_tokens)
    unsaid = frozenset(tokenizer.special_tokens.values()) if alone else ends
    _check(prompts, cfg, max_new_tokens, num_samples, ends)
    rows = [[] if alone else prompt for prompt in prompts for _ in range(num_samples)]
    texts = [StreamedText(tokenizer, row, stop, unsaid, through=alone) for row in rows]
    stopped = np.zeros(len(texts), bool)
    chunks = _chunks(
        model.inference_params, prompts, cfg, max_new_tokens, sampler, ends, keys, num_samples,
        frozenset(tokenizer.ids).difference(model.generation.banned_tokens),
        min(chunk, WATCHED_CHUNK) if stop else chunk, stopped,
    )  # fmt: skip

    def found():
        for tokens, _ in chunks:
            yield [text.extend(new) for text, new in zip(texts, tokens, strict=True)]
            stopped[:] = [text.stopped for text in texts]
        yield [text.finish() for text in texts]

    return found()


def row_keys(key: Key[Array, ""], prompts: Sequence[Sequence[int]], num_samples: int = 1) -> Key[Array, "rows"]:
    """A row's key comes from its prompt, and from how often the same one stands above it: not from its neighbours."""
    names, times = [], {}
    for prompt in (prompt for prompt in prompts for _ in range(num_samples)):
        name = zlib.crc32(np.array(prompt, np.int64).tobytes())
        names.append((name, times.get(name, 0)))
        times[name] = names[-1][1] + 1
    prompt, copy = np.array(names, np.uint32).reshape(-1, 2).T
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(jax.random.fold_in)(fold(key, prompt), copy)


def random_key(seed: int) -> Key[Array, ""]:
    """The key of a seed. Raises ValueError for one of more bits than JAX would read."""
    require(0 <= seed < 2**32, "seed", seed, "an integer from 0, below 2**32")
    return jax.random.key(seed)


def generate_tokens(
    params: dict,
    prompts: Sequence[Sequence[int]],
    cfg: ModelConfig,
    *,
    max_new_tokens: int,
    sampler: Sampler = GREEDY,
    end_tokens: Iterable[int] = (),
    ids: Iterable[int] | None = None,
    key: Key[Array, ""] | None = None,
    num_samples: int = 1,
    logprobs: bool = False,
) -> list[list[int]] | tuple[list[list[int]], list[list[float]]]:
    """The tokens that follow each prompt, up to and with the first of `end_tokens`; num_samples lists a prompt.

    A prompt's samples stand together, in the order of the prompts. The key (None: key(0)), its prompt and how often
    the same prompt stands above it decide what a row gets, not the other rows (in float32: what a lower precision
    rounds depends on the batch).
    When context_length tokens are in a row's context, the older half is dropped, the rest is encoded anew from
    position 0, and the row goes on.
    ids: those that may be chosen (None: all below vocab_size).
    logprobs: return also each token's log-probability under the model itself, before penalty, temperature and filters.
    params: as from `gpt.init`; `model.prepare` them once if there are many calls.
    Raises ValueError, before any work, for a prompt that is empty or longer than context_length, and for an id beyond
    the vocabulary.
    """
    end_tokens = frozenset(end_tokens)
    _check(prompts, cfg, max_new_tokens, num_samples, end_tokens)
    key = jax.random.key(0) if key is None else key
    rows = len(prompts) * num_samples
    chunks = _chunks(
        prepare(params, cfg.dtype), prompts, cfg, max_new_tokens, sampler, end_tokens,
        row_keys(key, prompts, num_samples), num_samples,
        range(cfg.vocab_size) if ids is None else ids, CHUNK, np.zeros(rows, bool),
    )  # fmt: skip
    tokens, scores = [[] for _ in range(rows)], [[] for _ in range(rows)]
    for chunk in chunks:
        for row in range(rows):
            tokens[row] += chunk.tokens[row]
            scores[row] += chunk.logprobs[row]
    return (tokens, scores) if logprobs else tokens


class _Chunk(NamedTuple):
    """The next tokens of each row, none for a row that has ended, and their log-probabilities."""

    tokens: list[list[int]]
    logprobs: list[list[float]]


def _chunks(
    params: dict,
    prompts: Sequence[Sequence[int]],
    cfg: ModelConfig,
    max_new_tokens: int,
    sampler: Sampler,
    end_tokens: Iterable[int],
    keys: Key[Array, "rows"],
    num_samples: int,
    ids: Iterable[int],
    chunk: int,
    stopped: np.ndarray,
) -> Iterator[_Chunk]:
    """The host's part of the loop. stopped: Bool[rows], where the caller may end a row between two chunks."""
    if not prompts or max_new_tokens == 0:
        return
    texts = [list(prompt) for prompt in prompts for _ in range(num_samples)]
    lengths = np.array([len(text) for text in texts])  # of what is in the cache; a living row's
    used = _bucket(int(lengths.max()), cfg)
    slots = _bucket(used + max_new_tokens - 1, cfg)
    settings = sampler.settings()
    ends = jnp.zeros(cfg.vocab_size, bool).at[np.array(list(end_tokens), int)].set(True)
    known = jnp.zeros(cfg.vocab_size, bool).at[np.array(list(ids), int)].set(True, mode="drop")
    seen = None
    if "repetition_penalty" in settings:
        seen = np.zeros((len(texts), cfg.vocab_size), bool)
        for row, text in enumerate(texts):
            seen[row, text] = True
        seen = jnp.asarray(seen)

    logits, cache = prefill(params, _right(prompts, used), lengths[::num_samples], cfg, slots, num_samples)
    ended = jnp.zeros(len(texts), bool)
    # A copy: rows are donated, and the caller keeps its keys.
    rows = Rows(jnp.full(len(texts), -1), ended, keys.copy(), jnp.zeros(len(texts), int), seen)
    rows, logprob = choose_first(rows, logits, settings, ends, known)
    tokens, logprobs, made = rows.token[:, None], logprob[:, None], 1
    while True:
        tokens, logprobs = np.asarray(tokens), np.asarray(logprobs)
        fresh = [row[row >= 0].tolist() for row in tokens]
        yield _Chunk(fresh, [row[: len(new)].tolist() for row, new in zip(logprobs, fresh, strict=True)])
        for text, new in zip(texts, fresh, strict=True):
            text.extend(new)
        ended = np.asarray(rows.ended) | stopped
        if made == max_new_tokens or ended.all():
            return
        rows = rows.replace(ended=jnp.asarray(ended))
        if used == slots:
            for row in np.flatnonzero(~ended & (lengths == cfg.context_length)):
                lengths[row] = keep = cfg.context_length // 2
                kept = texts[row][len(texts[row]) - 1 - keep : -1]
                width = _bucket(keep, cfg)
                _, new = prefill(params, _right([kept], width), lengths[[row]], cfg, width)
                cache = replace_row(cache, row, new)
            by = used - int(lengths[~ended].max())
            cache, used = shift_left(cache, by), used - by
        steps = min(chunk, max_new_tokens - made, slots - used)
        if (switch := switches_at(cfg)) is not None:
            for row in np.flatnonzero(~ended & (lengths == switch)):
                kept = texts[row][len(texts[row]) - 1 - switch : -1]
                _, new = prefill(params, _right([kept], switch), lengths[[row]], at_length(cfg, switch + 1), switch)
                cache = replace_row(cache, row, new)
            steps = min([steps, *(switch - lengths[~ended & (lengths < switch)]).tolist()])
        cache, rows, tokens, logprobs = decode_chunk(params, cache, rows, settings, ends, known, steps, cfg)
        lengths, used, made = lengths + steps, used + steps, made + steps


def _bucket(n: int, cfg: ModelConfig) -> int:
    """n rounded up to a power of two, at least 16, at most context_length."""
    return min(max(16, 1 << (n - 1).bit_length()), cfg.context_length)


def _right(texts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """The texts as one array, each at the right end of its row."""
    out = np.zeros((len(texts), width), np.int32)
    for row, text in zip(out, texts, strict=True):
        row[width - len(text) :] = text
    return out


def _pieces(
    model: Model,
    prompts: list[str],
    max_new_tokens: int,
    sampler: Sampler,
    stop: str | Sequence[str] | None,
    seed: int,
    num_samples: int,
    chunk: int = CHUNK,
) -> Iterator[list[str]]:
    """`pieces` of prompts that are texts."""
    tokenizer = model.tokenizer
    stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(stop)
    key = random_key(seed)
    ids = [tokenizer.frame(tokenizer.encode(prompt)) or tokenizer.start for prompt in prompts]
    return pieces(
        model, ids, row_keys(key, ids, num_samples), max_new_tokens=max_new_tokens, sampler=sampler, stop=stops,
        num_samples=num_samples, chunk=chunk,
    )  # fmt: skip


def _check(
    prompts: Sequence[Sequence[int]], cfg: ModelConfig, max_new_tokens: int, num_samples: int, end_tokens: Iterable[int]
) -> None:
    require(cfg.architecture == "decoder", "model.architecture", cfg.architecture, "decoder, to go on with a text")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens: found {max_new_tokens}, expected at least 0")
    if num_samples < 1:
        raise ValueError(f"num_samples: found {num_samples}, expected at least 1")
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {i}: found no tokens, expected at least one to start from")
        if len(prompt) > cfg.context_length:
            raise ValueError(f"prompt {i}: found {len(prompt)} tokens, expected at most {cfg.context_length}")
    for token in (token for row in (*prompts, end_tokens) for token in row):
        if not 0 <= token < cfg.vocab_size:
            raise ValueError(f"token id: found {token}, expected 0..{cfg.vocab_size - 1}")
