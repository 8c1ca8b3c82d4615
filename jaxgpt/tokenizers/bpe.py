"""Byte-level BPE: trained by rustbpe, run by tiktoken."""

import base64
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import ClassVar, Literal, SupportsIndex

import tiktoken

from jaxgpt.checks import nearest, require
from jaxgpt.tokenizers.base import END_OF_TEXT, Tokenizer, as_texts, read_state, well_formed
from jaxgpt.tokenizers.export import byte_pairs

# Both libraries' regex engines panic with a stack overflow on the \s+(?!\S) of every GPT pattern when a run of white
# space is longer than about 600,000 characters; text is cut after this many.
_MAX_SPACE = 100_000
_LONG_SPACE = re.compile(rf"\s{{{_MAX_SPACE}}}")


SMALLEST = 257  # vocabulary: every byte, and <|endoftext|>


class BPETokenizer(Tokenizer):
    """Byte-level BPE: any text round-trips. Trained here or one of tiktoken's encodings, "gpt2" among them.

    Source: Sennrich et al. 2016, Algorithm 1, over bytes: Radford et al. 2019, section 2.2.
    """

    kind: ClassVar[str] = "bpe"

    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding
        self._assigned = frozenset([*self.ranks.values(), *self.special_tokens.values()])

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Learns merges from texts until there are vocab_size tokens, <|endoftext|> the last of them.

        texts: read once, never held in memory all together. If their pairs run out, the vocabulary stays smaller.
        Raises ValueError if vocab_size is below 257, the 256 bytes and <|endoftext|>.
        """
        require(vocab_size >= SMALLEST, "vocab_size", vocab_size, f"at least {SMALLEST}: 256 bytes and {END_OF_TEXT}")
        import rustbpe

        trainer = rustbpe.Tokenizer()
        pieces = (piece for text in as_texts(texts) for piece in _cut(well_formed(text)))
        # By default rustbpe gathers 8,192 pieces, gigabytes of long ones, before it counts any.
        trainer.train_from_iterator(pieces, vocab_size - 1, buffer_size=64)
        ranks = dict(trainer.get_mergeable_ranks())
        return cls(
            tiktoken.Encoding(
                "jaxgpt",
                pat_str=trainer.get_pattern(),
                mergeable_ranks=ranks,
                special_tokens={END_OF_TEXT: len(ranks)},
            )
        )

    @classmethod
    def from_tiktoken(cls, name: str) -> "BPETokenizer":
        """One of tiktoken's encodings, from the folder TIKTOKEN_CACHE_DIR or else downloaded.

        Raises ValueError for a name tiktoken does not know, OSError if the encoding can be had neither way.
        """
        if name not in (known := tiktoken.list_encoding_names()):
            raise ValueError(f"tiktoken encoding: found {name!r}, expected {nearest(name, known)}")
        try:
            return cls(tiktoken.get_encoding(name))
        except OSError as error:
            raise OSError(
                f"tiktoken encoding {name}: not in the folder TIKTOKEN_CACHE_DIR names, and the download failed"
            ) from error

    @property
    def ranks(self) -> dict[bytes, int]:
        """The id of each token's bytes; of two possible merges, the one to the lower id comes first."""
        return self.encoding._mergeable_ranks  # underscored, but named for this use in tiktoken's README

    @property
    def vocab_size(self) -> int:
        return self.encoding.max_token_value + 1

    @property
    def ids(self) -> frozenset[int]:
        return self._assigned

    @property
    def special_tokens(self) -> dict[str, int]:
        return dict(self.encoding._special_tokens)

    def encode(self, text: str, *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()) -> list[int]:
        encode = partial(
            self.encoding.encode, allowed_special=self._allowed(allowed_special), disallowed_special=frozenset()
        )
        return list(chain.from_iterable(map(encode, _cut(text))))

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AbstractSet[str] | Literal["all"] = frozenset()
    ) -> list[list[int]]:
        """See Tokenizer; in threads."""
        with ThreadPoolExecutor() as threads:
            return list(threads.map(partial(self.encode, allowed_special=allowed_special), texts))

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        return self.encoding.decode(self._checked(ids, self._assigned))

    def save(self, folder: str | Path) -> None:
        self._save(
            folder,
            byte_pairs(self.ranks, self.encoding._pat_str, self.special_tokens),
            name=self.encoding.name,
            pattern=self.encoding._pat_str,
            special_tokens=self.special_tokens,
            ranks={base64.b64encode(token).decode(): rank for token, rank in self.ranks.items()},
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> "BPETokenizer":
        state = read_state(folder)
        return cls(
            tiktoken.Encoding(
                state["name"],
                pat_str=state["pattern"],
                mergeable_ranks={base64.b64decode(token): rank for token, rank in state["ranks"].items()},
                special_tokens=state["special_tokens"],
            )
        )


def _cut(text: str) -> list[str]:
    """text in pieces, none with a longer run of white space than _MAX_SPACE."""
    cuts = [match.end() for match in _LONG_SPACE.finditer(text)] if len(text) > _MAX_SPACE else []
    return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
