"""Text that holds special tokens, cut into text and tokens by turns."""

import re
from collections.abc import Iterable


def split(text: str, tokens: Iterable[str]) -> list[str]:
    """[text, token, text, ..., text]: every even part is text, perhaps empty, and every odd one is of tokens.

    Where one token begins with another, the longer is taken.
    """
    pattern = _any(tokens)
    return re.split(f"({pattern})", text) if pattern else [text]


def spoil(text: str, tokens: Iterable[str], mark: str) -> str:
    """text with `mark`, one character, within each of tokens that it holds, so that split finds none.

    The mark stands after a token's first character, which must not be all of it.
    """
    pattern = _any(tokens)
    return re.sub(rf"(?s)(?=(?:{pattern}))(.)", rf"\g<1>{mark}", text) if pattern else text


def _any(tokens: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
