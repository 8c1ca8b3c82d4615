"""Token ids as the rows an encoder reads, padded to few shapes."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxgpt.checks import require
from jaxgpt.tokenizers import Tokenizer


def mask_name(tokenizer: Tokenizer) -> str:
    """What a blank is called in a text: [MASK], say. Raises ValueError for a tokenizer without such a token."""
    require(tokenizer.mask is not None, "tokenizer", tokenizer.kind, "one with a mask token, as wordpiece")
    return next(name for name, token in tokenizer.special_tokens.items() if token == tokenizer.mask)


def cut(first: Sequence[int], second: Sequence[int] | None, room: int) -> tuple[Sequence[int], Sequence[int] | None]:
    """A text of at most `room` tokens, or two that have so many together: the longer loses its end until they have.

    As truncation=True in transformers.
    """
    if second is None or len(first) + len(second) <= room:
        return first[:room], second
    shorter = min(len(first), len(second), room // 2)
    return (
        (first[:shorter], second[: room - shorter])
        if len(first) <= len(second)
        else (first[: room - shorter], second[:shorter])
    )


def batches(
    rows: Sequence[Sequence[int]], longest: int, size: int
) -> Iterator[tuple[list[int], Int[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]]:
    """(which rows, their tokens and mask as of `pad`), `size` rows at once, those of like length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield chosen, *pad([rows[i] for i in chosen], longest, finely=len(rows) >= size)


def pad(
    rows: Sequence[Sequence[int]], longest: int, *, finely: bool = False
) -> tuple[Int[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]:
    """The rows, each at the left of its own, and True at their tokens.

    Both axes are powers of two, so that a new text seldom compiles anything; time is at least 16, at most `longest`.
    finely: time may also be a quarter, a half or three between two powers, and 8 or 12. Of full batches,
    padding costs more than compiling: a quarter of the time for sentences.
    """
    n = max(map(len, rows))
    step = max(4, power_of_two(n) // 8) if finely else max(16, power_of_two(n))
    time = min(-(-n // step) * step, longest)
    tokens = np.zeros((power_of_two(len(rows)), time), np.int32)
    real = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], real[i, : len(row)] = row, True
    return tokens, real


def power_of_two(n: int) -> int:
    """n, a positive integer, rounded up."""
    return 1 << (n - 1).bit_length()
