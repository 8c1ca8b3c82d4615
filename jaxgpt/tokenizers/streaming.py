"""Text of tokens as they come."""

from collections.abc import Iterable, Sequence, Set
from operator import index
from typing import SupportsIndex

from jaxgpt.tokenizers.base import Tokenizer

# A character is at most four bytes and a token at least one, so an unfinished character began within the last three
# tokens; a word's leading space depends on one token before it.
KEEP = 4
PRIMER = 8  # tokens of the prompt that a text's decoder sees first: they settle a leading space, say
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


class StreamedText:
    """A row's text as its tokens come, cut before the stop string that is complete first (of two, the longer).

    unsaid: tokens that are left out of it, and that no stop string reaches across. through: cut only after the token
    that completes a stop string.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        stops: Sequence[str],
        unsaid: Set[int] = frozenset(),
        through: bool = False,
    ):
        self.stopped = False
        self._stops, self._unsaid, self._through, self._held = stops, unsaid, through, ""
        self._decoder = StreamingDecoder(tokenizer)
        primer = prompt[-PRIMER:]
        shown = sum(len(self._decoder.push(token)) for token in primer)
        self._skip = len(tokenizer.decode(primer)) - shown  # the prompt's own, still to come

    def extend(self, tokens: Iterable[int]) -> str:
        """What these tokens add to the text for certain."""
        return "".join(
            [self._release() if token in self._unsaid else self._add(self._decoder.push(token)) for token in tokens]
        )

    def finish(self) -> str:
        """What was held back."""
        return self._add(self._decoder.flush()) + self._release()

    def _release(self) -> str:
        held, self._held = self._held, ""
        return held

    def _add(self, piece: str) -> str:
        if self.stopped:
            return ""
        piece, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text + self._decoder.flush() if self._through else text[: min(found)[1]]
        begun = [n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        certain = len(text) - max(begun, default=0)
        self._held = text[certain:]
        return text[:certain]
