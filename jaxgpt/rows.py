"""Token ids as the rows an encoder reads, padded to few shapes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from jaxgpt.checks import require
from jaxgpt.tokenizers import Tokenizer


def mask_name(tokenizer: Tokenizer) -> str:
    """What a blank is called in a text: [MASK], say. Raises ValueError for a tokenizer without such a token."""
    require(tokenizer.mask is not None, "tokenizer", tokenizer.kind, "one with a mask token, as wordpiece")
    return next(name for name, token in tokenizer.special_tokens.items() if token == tokenizer.mask)


def pad(
    rows: Sequence[Sequence[int]], longest: int
) -> tuple[Int[np.ndarray, "batch time"], Bool[np.ndarray, "batch time"]]:
    """The rows, each at the left of its own, and True at their tokens.

    Both axes are powers of two, so that a new text seldom compiles anything; time is at least 16, at most `longest`.
    """
    time = min(max(16, power_of_two(max(map(len, rows)))), longest)
    tokens = np.zeros((power_of_two(len(rows)), time), np.int32)
    real = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], real[i, : len(row)] = row, True
    return tokens, real


def power_of_two(n: int) -> int:
    """n, a positive integer, rounded up."""
    return 1 << (n - 1).bit_length()
