"""Conversations as rows of tokens of which the answers are learnt: one a row, or several that don't see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from jaxgpt.data.batches import Block
from jaxgpt.data.buckets import Examples
from jaxgpt.data.config import DataConfig


@dataclass(frozen=True)
class Answers(Examples):
    """Rows for `BucketBatches`."""

    ids: list[list[int]]
    """Of each conversation."""
    learnt: list[list[bool]]
    """Which of them are targets."""
    packs: list[list[int]]
    """The conversations of each row."""

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "rows 1"]:
        """As Examples.lengths: of the inputs, one fewer than its tokens for each conversation."""
        return np.array([[sum(len(self.ids[i]) - 1 for i in pack)] for pack in self.packs])

    def gather(self, which: Int64[np.ndarray, "steps batch"], shape: tuple[int, ...]) -> Block:
        """As Examples.gather: int32 "inputs", "targets" and "segments" (1, 2, ... by conversation, 0 for padding), and
        float32 "weights", 1 at a target that is learnt; all [steps, batch, time]."""
        arrays = {name: np.zeros((*which.shape, *shape), np.int32) for name in ("inputs", "targets", "segments")}
        arrays["weights"] = np.zeros((*which.shape, *shape), np.float32)
        for place, row in np.ndenumerate(which):
            if row < 0:
                arrays["segments"][place][0] = 1  # a softmax over nothing is NaN
                continue
            at = 0
            for number, i in enumerate(self.packs[row], 1):
                ids = self.ids[i]
                span = slice(at, at + len(ids) - 1)
                arrays["inputs"][place][span] = ids[:-1]
                arrays["targets"][place][span] = ids[1:]
                arrays["segments"][place][span] = number
                arrays["weights"][place][span] = self.learnt[i][1:]
                at = span.stop
        return arrays


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items share a row of this capacity: the longest first, each into the fullest row that has room for it.

    One that is longer has a row of its own. Source: best-fit decreasing, Johnson 1973.
    """
    packs: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the rows with so much room
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = next((room for room in range(lengths[i], capacity) if by_room[room]), None)
        if room is None:
            room, row = max(capacity, lengths[i]), len(packs)
            packs.append([])
        else:
            row = by_room[room].pop()
        packs[row].append(i)
        by_room[room - lengths[i]].append(row)
    return packs


def row_length(config: DataConfig, context_length: int) -> int:
    """Tokens of a row that several share."""
    return min(config.pack_length or context_length, context_length)


def rows(lengths: Sequence[int], config: DataConfig, context_length: int) -> list[list[int]]:
    """Which items share a row, as the config says."""
    if not config.pack:
        return [[i] for i in range(len(lengths))]
    return pack(lengths, row_length(config, context_length))


def shapes(packed: Examples, config: DataConfig) -> int:
    """How many shapes batches of such rows have."""
    most = config.pack_length
    return 1 if config.pack and (most is None or packed.lengths.max() <= most) else config.buckets
