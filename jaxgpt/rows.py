"""Token ids as the rows an encoder reads, padded to few shapes."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxgpt.checks import require
from jaxgpt.tokenizers import Tokenizer

TOKENS = 2048  # at once: on a CPU twice as many, whose activations leave the cache, take 1.3 times as long each
MANY = 16  # full batches
Text = str | tuple[str, str]
"""One text, or a pair that is read together."""


def mask_name(tokenizer: Tokenizer) -> str:
    """What a blank is called in a text: [MASK], say. Raises ValueError for a tokenizer without such a token."""
    require(tokenizer.mask is not None, "tokenizer", tokenizer.kind, "one with a mask token, as wordpiece")
    return next(name for name, token in tokenizer.special_tokens.items() if token == tokenizer.mask)


def framed(
    tokenizer: Tokenizer, texts: Sequence[Text], context_length: int, max_tokens: int | None = None
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """The ids of each text, or pair of texts, as the tokenizer frames it; the segment of each id; which texts were cut.

    max_tokens: a text, its frame included, is cut to so many; of a pair the longer is, as by truncation=True in
    transformers. Raises ValueError for a text of no tokens, or of more than context_length.
    """
    pairs = [(text, None) if isinstance(text, str) else text for text in texts]
    ids = iter(tokenizer.encode_batch([text for pair in pairs for text in pair if text is not None]))
    rows, segments, shorter = [], [], []
    for i, (_, second) in enumerate(pairs):
        parts = next(ids), None if second is None else next(ids)
        added = len(tokenizer.frame([], None if second is None else []))
        if max_tokens is not None:
            whole, parts = parts, cut(*parts, max(0, min(max_tokens, context_length) - added))
            if parts != whole:
                shorter.append(i)
        row = tokenizer.frame(*parts)
        require(len(row) > 0, f"text {i}", "no tokens", "at least one")
        expected = f"at most {context_length}, {added} that begin and end it among them"
        if len(row) > context_length:
            raise ValueError(f"text {i}: found {len(row)} tokens, expected {expected}")
        rows.append(row)
        segments.append(tokenizer.segments(*parts))
    return rows, segments, shorter


def cut(first: list[int], second: list[int] | None, room: int) -> tuple[list[int], list[int] | None]:
    """A text of at most `room` tokens, or two that have so many together: the longer loses its end until they have."""
    if second is None or len(first) + len(second) <= room:
        return first[:room], second
    shorter = min(len(first), len(second), room // 2)
    longer = room - shorter
    return (first[:shorter], second[:longer]) if len(first) <= len(second) else (first[:longer], second[:shorter])


def batches(
    rows: Sequence[Sequence[int]], longest: int, size: int
) -> Iterator[tuple[list[int], Int[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]]:
    """(which rows, their tokens and mask as of `pad`), `size` rows at once, those of like length together.

    On a CPU fewer where they would be more than TOKENS tokens.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    most = TOKENS if jax.default_backend() == "cpu" else size * longest
    # Each new shape compiles: the more batches there are, the more shapes they are worth.
    steps = 1 if len(rows) < size else 4 if len(rows) < MANY * size else 8
    start = 0
    while start < len(order):
        n = min(size, len(order) - start)
        while n > 1 and power_of_two(n) * len(rows[order[start + n - 1]]) > most:
            n = power_of_two(n) // 2
        chosen = order[start : start + n]
        yield chosen, *pad([rows[i] for i in chosen], longest, steps=steps)
        start += n


def pad(
    rows: Sequence[Sequence[int]], longest: int, *, steps: int = 1
) -> tuple[Int[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]:
    """The rows, each at the left of its own, and True at their tokens.

    Both axes are powers of two, so that a new text seldom compiles anything; time is at least 16, at most `longest`.
    steps: time may also be one of so many steps from a power to the next, and less than 16. Of the STS benchmark's
    sentences, 64 at once, 34, 12 or 7 % of the tokens are padding with 1, 4 or 8 steps.
    """
    n = max(map(len, rows))
    step = max(16 // steps, power_of_two(n) // (2 * steps))
    time = min(-(-n // step) * step, longest)
    tokens = np.zeros((power_of_two(len(rows)), time), np.int32)
    real = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], real[i, : len(row)] = row, True
    return tokens, real


def power_of_two(n: int) -> int:
    """n, a positive integer, rounded up."""
    return 1 << (n - 1).bit_length()
