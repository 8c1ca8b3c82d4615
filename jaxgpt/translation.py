"""From text in one language to text in another: an encoder-decoder's targets, by beam search, greedily or drawn."""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxgpt.attention import KVCache
from jaxgpt.beam import EarlyStopping, advance, begin, grow, refill
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.decoding import CHUNK, Rows, decode_chunk, read_sources
from jaxgpt.model import Model, prepare
from jaxgpt.sampling import Sampler
from jaxgpt.sharding import fetch

NOBODY = -1  # owns a row of a search that waits for a source
STEPS = 32  # that a search has room for at first: most translations are shorter, and attention reads all of the room


def translate(
    model: Model,
    texts: str | Sequence[str],
    *,
    beam: int = 4,
    length_penalty: float | int = 1.0,
    length_offset: float | int = 5.0,
    early_stopping: EarlyStopping = False,
    max_new_tokens: int | None = None,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    min_p: float | int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> str | list[str]:
    """The translation of each text: a str for a str, a list for a list.

    beam, length_penalty (alpha), length_offset, early_stopping: as in `beam.advance`; beam 1 is greedy, or draws where
    temperature is above 0 (then with the numbers of `Sampler`). max_new_tokens: most tokens of a target (None: twice
    the source's and 10).
    batch_size: texts translated at once, those of like length together; in float32 no translation depends on it.
    Raises ValueError, before any work, for a number that can't be used, an empty text, and one over context_length.
    """
    require(model.config.architecture == "encoder-decoder", "model", model.config.architecture, "an encoder-decoder")
    sampler = Sampler(temperature, top_k, top_p, min_p)
    require(0 <= seed < 2**32, "seed", seed, "an integer from 0, below 2**32")  # JAX would drop the other bits
    many = [texts] if isinstance(texts, str) else list(texts)
    sources, choices = source_rows(model, many), target_choices(model)
    targets = translate_tokens(
        model.inference_params,
        sources,
        model.inference_config,
        **choices,
        beam=beam,
        length_penalty=length_penalty,
        length_offset=length_offset,
        early_stopping=early_stopping,
        max_new_tokens=max_new_tokens,
        sampler=sampler,
        key=jax.random.key(seed),
        batch_size=batch_size,
    )
    found = target_texts(model, targets)
    return found[0] if isinstance(texts, str) else found


def source_rows(model: Model, texts: Sequence[str]) -> list[list[int]]:
    """Texts as the encoder reads them, as pairs are: without the white space around them, then the end-of-text token.

    Marian's and T5's tokenizers frame a text so too. Raises ValueError for a tokenizer without such a token.
    """
    tokenizer = model.tokenizer
    expected = "one with an end-of-text token, such as bpe"
    require(tokenizer.end_of_text is not None, "tokenizer", tokenizer.kind, expected)
    return [[*ids, tokenizer.end_of_text] for ids in tokenizer.encode_batch([text.strip() for text in texts])]


def target_texts(model: Model, targets: Iterable[Sequence[int]]) -> list[str]:
    """The text of each target, without its end and any other special token."""
    unsaid = {*model.generation.end_tokens, *model.tokenizer.special_tokens.values()}
    return [model.tokenizer.decode(token for token in target if token not in unsaid) for target in targets]


def target_choices(model: Model) -> dict[str, Any]:
    """What a target starts and ends with, and the ids that may be chosen for it: arguments of `translate_tokens`."""
    said = model.generation
    expected = "one, such as the end-of-text token of bpe"
    require(len(said.end_tokens) == 1, "generation.end_tokens", said.end_tokens, expected)
    (end,) = said.end_tokens
    ids = sorted(set(model.tokenizer.ids).difference(said.banned_tokens))
    return {"start": end if said.start_token is None else said.start_token, "end": end, "ids": ids}


def translate_tokens(
    params: dict,
    sources: Sequence[Sequence[int]],
    cfg: ModelConfig,
    *,
    start: int,
    end: int,
    beam: int = 4,
    length_penalty: float | int = 1.0,
    length_offset: float | int = 5.0,
    early_stopping: EarlyStopping = False,
    max_new_tokens: int | None = None,
    fewest: int = 0,
    sampler: Sampler = Sampler(),  # noqa: B008
    ids: Iterable[int] | None = None,
    key: Key[Array, ""] | None = None,
    batch_size: int = 64,
) -> list[list[int]]:
    """The target of each source (its end token included), up to and with `end` where it came to that.

    start: what every target begins with, not returned. ids: those that may be chosen (None: all below vocab_size).
    fewest: tokens of a target before its end.
    The other arguments and errors are those of `translate`; key: of the draws (None: key(0)).
    """
    ids = list(range(cfg.vocab_size) if ids is None else ids)
    _check(sources, (start, end, *ids), cfg, beam, length_penalty, length_offset, max_new_tokens, sampler, batch_size)
    require(fewest >= 0, "fewest", fewest, "an integer of at least 0")
    known = jnp.zeros(cfg.vocab_size, bool).at[np.array(ids, int)].set(True)
    key = jax.random.key(0) if key is None else key
    params = prepare(params, cfg.dtype)
    targets: list[list[int]] = [[] for _ in sources]
    batches = _batches(sources, cfg, max_new_tokens, batch_size)
    if beam > 1 and sources:
        penalty = float(length_penalty), float(length_offset)
        for row, target in _search(params, batches, start, end, known, penalty, beam, cfg, early_stopping, fewest):
            targets[row] = target
        return targets
    for rows, source, lengths, limits in batches:
        steps = _bucket(int(limits.max()), cfg)
        memory = read_sources(params, source, lengths, cfg)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([*rows, *[0] * (len(source) - len(rows))]))
        tokens = _decode(params, memory, start, end, known, sampler, keys, cfg, steps, fewest)
        for row, target, limit in zip(rows, tokens, limits, strict=False):
            kept = target[: int(limit)]
            targets[row] = kept[kept >= 0].tolist()
    return targets


def _search(
    params,
    batches,
    start: int,
    end: int,
    known,
    penalty: tuple[float, float],
    beam: int,
    cfg: ModelConfig,
    early_stopping: EarlyStopping,
    fewest: int,
) -> Iterator[tuple[int, list[int]]]:
    """(which source, its best target). Rows that are done take the next sources: few wait for the longest.

    penalty: alpha and offset.
    """
    alpha, offset = penalty
    batches = iter(batches)
    rows, source, lengths, limits = next(batches)
    size = len(source)
    owner = np.array([*rows, *[NOBODY] * (size - len(rows))])
    limits = np.where(owner == NOBODY, 0, limits)
    steps = min(STEPS, _bucket(int(limits.max()), cfg))
    search = begin(read_sources(params, source, lengths, cfg), jnp.asarray(limits), cfg, beam, steps)
    waiting: deque = deque()
    while True:
        if not waiting and (batch := next(batches, None)):
            rows, source, lengths, limits = batch
            memory, waiting = read_sources(params, source, lengths, cfg), deque(enumerate(rows))
        idle = int((owner == NOBODY).sum())
        enough = min(size, idle + max(1, size // 16)) if waiting else size
        search = advance(params, search, start, end, known, alpha, offset, enough, cfg, early_stopping, fewest)
        done, full = fetch(search.done), fetch(search.full)
        finished = np.flatnonzero(done & (owner != NOBODY))
        tokens, ends = fetch(search.ended.tokens)[:, 0], fetch(search.ended.length)[:, 0]
        for row in finished:
            yield int(owner[row]), tokens[row, : ends[row]].tolist()
        owner[finished] = NOBODY
        free = np.flatnonzero(owner == NOBODY)
        if len(free) == size and not waiting:
            return
        if waiting:
            places = np.full(size, -1)
            for row in free[: len(waiting)]:
                places[row], owner[row] = waiting.popleft()
            search = refill(search, jnp.asarray(places), memory, jnp.asarray(limits))
        if full:
            search = grow(search)


def _decode(
    params, memory, start, end, known, sampler: Sampler, keys, cfg: ModelConfig, steps: int, fewest: int
) -> np.ndarray:
    """Tokens one by one, greedy or drawn: -1 after the end."""
    batch = memory.mask.shape[0]
    rows = Rows(jnp.full(batch, start, jnp.int32), jnp.zeros(batch, bool), keys, jnp.zeros(batch, int), None)
    cache, ends = KVCache.empty(cfg, batch, steps), jnp.zeros(cfg.vocab_size, bool).at[end].set(True)
    chunks, made = [], 0
    while made < steps:
        n = min(CHUNK, (fewest if made < fewest else steps) - made, steps - made)
        possible = known & ~ends if made < fewest else known
        cache, rows, tokens, _ = decode_chunk(params, cache, rows, sampler.settings(), ends, possible, n, cfg, memory)
        chunks.append(fetch(tokens)[:, :n])
        made += n
        if fetch(rows.ended).all():
            break
    return np.concatenate(chunks, 1)


def _batches(
    sources: Sequence[Sequence[int]], cfg: ModelConfig, max_new_tokens: int | None, batch_size: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """(which sources, their tokens, lengths and limits), those of like length together, in few shapes.

    A batch that is not full is filled up with copies of its first source.
    """
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    size = min(batch_size, 1 << (len(sources) - 1).bit_length())
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        texts = [sources[row] for row in rows] + [sources[rows[0]]] * (size - len(rows))
        lengths = np.array([len(text) for text in texts])
        tokens = np.zeros((size, _bucket(int(lengths.max()), cfg)), np.int32)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = text
        limits = 2 * lengths + 10 if max_new_tokens is None else np.full(size, max_new_tokens)
        yield rows, tokens, lengths, np.minimum(limits, cfg.context_length)


def _bucket(n: int, cfg: ModelConfig) -> int:
    """n rounded up to a multiple of 16, at most context_length: few shapes to compile, little padding."""
    return min(-(-n // 16) * 16, cfg.context_length)


def _check(
    sources: Sequence[Sequence[int]],
    ids: Sequence[int],
    cfg: ModelConfig,
    beam: int,
    length_penalty: float | int,
    length_offset: float | int,
    max_new_tokens: int | None,
    sampler: Sampler,
    batch_size: int,
) -> None:
    require(beam >= 1, "beam", beam, "a positive integer")
    require(0 <= length_penalty < math.inf, "length_penalty", length_penalty, "a number of at least 0")
    require(0 <= length_offset < math.inf, "length_offset", length_offset, "a number of at least 0")
    require(max_new_tokens is None or max_new_tokens >= 1, "max_new_tokens", max_new_tokens, "a positive integer")
    require(beam == 1 or sampler.temperature == 0, "beam", beam, "1 where temperature is above 0")
    penalty = sampler.repetition_penalty
    require(penalty is None, "repetition_penalty", penalty, "None: translations are drawn without")
    require(batch_size >= 1, "batch_size", batch_size, "a positive integer")
    for i, source in enumerate(sources):
        require(len(source) > 1, f"text {i}", "no tokens", "something to translate")
        most = cfg.context_length
        require(len(source) <= most, f"text {i}", len(source), f"at most {most} tokens, the end's among them")
    for token in itertools.chain(ids, *sources):
        require(0 <= token < cfg.vocab_size, "token id", token, f"0..{cfg.vocab_size - 1}")


def bleu(translations: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """The corpus BLEU of translations, 0 to 100, and sacrebleu's signature, which says how it was counted.

    Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores". Needs the `translation` extra.
    """
    from sacrebleu.metrics import BLEU  # an extra

    metric = BLEU()
    score = metric.corpus_score(list(translations), [list(references)]).score
    return score, str(metric.get_signature())
