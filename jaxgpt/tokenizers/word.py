"""One token per word or punctuation mark: the tokenizer of the first exercises."""

import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import ClassVar, Literal, SupportsIndex

from jaxgpt.tokenizers import export
from jaxgpt.tokenizers.base import END_OF_TEXT, Tokenizer, as_texts, read_state

UNKNOWN = "<|unk|>"
_SEPARATOR = r"""[,.:;?_!"()']|--|\s"""
_NO_SPACE_BEFORE = frozenset(""",.:;?!"()'""")


class WordTokenizer(Tokenizer):
    """A token per word or punctuation mark, sorted; then <|endoftext|>, and <|unk|> for every other word.

    White space is not kept: decoding puts one space between tokens, none before punctuation.
    Source: Raschka, Build a Large Language Model (From Scratch), sections 2.2 to 2.4 (SimpleTokenizerV2).
    """

    kind: ClassVar[str] = "word"

    def __init__(self, words: Iterable[str]):
        self.words = sorted(set(words) - {END_OF_TEXT, UNKNOWN})
        self._ids = {word: i for i, word in enumerate(self.words)}
        self._tokens = [*self.words, END_OF_TEXT, UNKNOWN]

    @classmethod
    def train(cls, texts: str | Iterable[str]) -> "WordTokenizer":
        """The tokenizer of every word that occurs in texts."""
        return cls({word for text in as_texts(texts) for word in _split(text, _SEPARATOR)})

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        return {END_OF_TEXT: len(self.words), UNKNOWN: len(self.words) + 1}

    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        allowed = self._allowed(allowed_special)
        special = self.special_tokens
        separator = "|".join([*map(re.escape, allowed), _SEPARATOR])
        return [
            special[word] if word in allowed else self._ids.get(word, special[UNKNOWN])
            for word in _split(text, separator)
        ]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        tokens = [self._tokens[token] for token in self._checked(ids, range(self.vocab_size))]
        return "".join(token if i == 0 or token in _NO_SPACE_BEFORE else f" {token}" for i, token in enumerate(tokens))

    def save(self, folder: str | Path) -> None:
        # A word that is not one as text, which only a caller of __init__ can have brought, no other program would find.
        plain = all(_split(word, _SEPARATOR) == [word] for word in self.words)
        files = export.words(self._tokens, _SEPARATOR, UNKNOWN, _NO_SPACE_BEFORE, self.special_tokens) if plain else {}
        self._save(folder, files, words=self.words)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "WordTokenizer":
        return cls(read_state(folder)["words"])


def _split(text: str, separator: str) -> list[str]:
    """The parts of text between matches of separator, and the matches themselves, white space left out."""
    return [part for part in re.split(f"({separator})", text) if part and not part.isspace()]
