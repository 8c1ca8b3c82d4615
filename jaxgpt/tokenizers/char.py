"""One token per character."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Literal, SupportsIndex

import numpy as np

from jaxgpt.tokenizers import export
from jaxgpt.tokenizers.base import Tokenizer, as_texts, read_state


class CharTokenizer(Tokenizer):
    """A token per character (Unicode code point): id i is the i-th of the sorted characters. No special tokens.

    Raises ValueError if there are no characters.
    """

    kind: ClassVar[str] = "char"

    def __init__(self, characters: Iterable[str]):
        self.characters = sorted(set(characters))
        if not self.characters:
            raise ValueError("characters: found none, expected at least one")
        points = np.array([ord(character) for character in self.characters])
        # The extra last entry stays -1: every code point above the largest known one is looked up there.
        self._ids = np.full(points[-1] + 2, -1, np.int32)
        self._ids[points] = np.arange(len(points))

    @classmethod
    def train(cls, texts: str | Iterable[str]) -> "CharTokenizer":
        """The tokenizer of every character that occurs in texts."""
        return cls(set().union(*map(set, as_texts(texts))))

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        """See Tokenizer. Raises ValueError for a character that is not in the vocabulary."""
        self._allowed(allowed_special)
        # A table over code points: 6 times the speed of a dict lookup for each character.
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if (unknown := ids < 0).any():
            position = int(unknown.argmax())
            raise ValueError(
                f"text: found {text[position]!r} at position {position}, "
                f"expected one of the vocabulary's {self.vocab_size} characters"
            )
        return ids.tolist()

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return "".join([self.characters[token] for token in self._checked(ids, range(self.vocab_size))])

    def save(self, folder: str | Path) -> None:
        self._save(folder, export.characters(self.characters), characters=self.characters)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "CharTokenizer":
        return cls(read_state(folder)["characters"])
