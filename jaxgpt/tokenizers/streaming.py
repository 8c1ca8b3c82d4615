"""Text of tokens as they come."""

from operator import index
from typing import SupportsIndex

from jaxgpt.tokenizers.base import Tokenizer

# A character is at most four bytes and a token at least one, so an unfinished character began within the last three
# tokens; a word's leading space depends on one token before it.
KEEP = 4
UNFINISHED = "\ufffd"  # what decode ends with when the last character lacks bytes, and also for bytes that are wrong


class StreamingDecoder:
    """decode, one token at a time, at a cost that does not grow with the text.

    The pieces that push and flush return make up exactly tokenizer.decode of all the ids, and none ends within a
    character. A character's bytes that come as tokens of their own in a tokenizer.json (<0xE2>) are held back until
    a token of another sort follows: see Tokenizer.settles.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._restart()

    def push(self, token: SupportsIndex) -> str:
        """The text that token completes, perhaps none. Raises ValueError for an id that stands for no token."""
        token = index(token)
        if not self._tokenizer.settles(token):
            self._window.append(token)
            return ""
        window = [*self._window, token]
        text = self._tokenizer.decode(window)
        final = text.removesuffix(UNFINISHED)
        piece = final[self._shown :]
        self._shown = len(final)
        if len(window) > 2 * KEEP:
            # Cut within a character or a word, a window decodes differently only where it begins: that was returned.
            window = window[-KEEP:]
            self._shown = len(self._tokenizer.decode(window)) - (len(text) - len(final))
        self._window = window
        return piece

    def flush(self) -> str:
        """The text still held back, unfinished characters as U+FFFD. The next push begins a new text."""
        piece = self._tokenizer.decode(self._window)[self._shown :]
        self._restart()
        return piece

    def _restart(self) -> None:
        self._window: list[int] = []
        self._shown = 0  # characters of decode(window) that have been returned
