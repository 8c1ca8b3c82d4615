"""Sequences of tokens in one array, each ended by one token that is nowhere else."""

from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer


@dataclass(frozen=True)
class Sequences:
    """sequences[i]: the tokens of sequence i, the one that ends it included, as lengths count them too."""

    tokens: Integer[np.ndarray, "tokens"]
    end: int
    """The token that ends each sequence."""
    starts: Int64[np.ndarray, "sequences"]
    lengths: Int64[np.ndarray, "sequences"]

    @classmethod
    def split(cls, tokens: Integer[np.ndarray, "tokens"], end: int) -> "Sequences":
        """The sequences of tokens, which end tells apart; tokens stay where they are, on disk say."""
        ends = np.flatnonzero(tokens == end) + 1
        starts = np.concatenate([[0], ends[:-1]])
        return cls(tokens, end, starts, ends - starts)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: SupportsIndex) -> Integer[np.ndarray, "length"]:
        return self.tokens[self.starts[i] : self.starts[i] + self.lengths[i]]

    def rows(
        self, which: Int64[np.ndarray, "*rows"], width: int
    ) -> tuple[Int32[np.ndarray, "*rows {width}"], Bool[np.ndarray, "*rows {width}"]]:
        """The sequences `which`, the rest of each row filled up with end, and where they are: True at their tokens."""
        place = np.arange(width)
        inside = place < self.lengths[which][..., None]
        at = np.minimum(self.starts[which][..., None] + place, len(self.tokens) - 1)
        return np.where(inside, self.tokens[at], self.end).astype(np.int32), inside
