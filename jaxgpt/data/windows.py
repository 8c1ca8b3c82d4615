"""Input-target pairs by a sliding window over tokens."""

import numpy as np
from jaxtyping import Integer


def n_windows(n_tokens: int, context_length: int, stride: int) -> int:
    """How many windows of context_length + 1 tokens, stride apart, fit into n_tokens; 0 if none does."""
    return max(0, (n_tokens - context_length - 1) // stride + 1)


def spans(
    tokens: Integer[np.ndarray, "tokens"], context_length: int, stride: int
) -> Integer[np.ndarray, "n {context_length}+1"]:
    """Every window with its last target: row i is tokens[i * stride : i * stride + context_length + 1].

    A read-only view: nothing is copied, whatever the size of tokens.
    Raises ValueError if not one window fits.
    """
    if not n_windows(len(tokens), context_length, stride):
        raise ValueError(
            f"data: found {len(tokens)} tokens, expected at least context_length + 1 = {context_length + 1}"
        )
    return np.lib.stride_tricks.sliding_window_view(tokens, context_length + 1)[::stride]


def windows(
    tokens: Integer[np.ndarray, "tokens"], context_length: int, stride: int
) -> tuple[Integer[np.ndarray, "n {context_length}"], Integer[np.ndarray, "n {context_length}"]]:
    """Inputs and targets of next-token prediction: targets are the inputs shifted by one token.

    stride: tokens between the starts of neighbouring windows; context_length makes them tile the text. A rest shorter
    than a window is left out. Read-only views of tokens. Raises ValueError if not one window fits.
    """
    rows = spans(tokens, context_length, stride)
    return rows[:, :-1], rows[:, 1:]
