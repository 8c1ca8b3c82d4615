"""Pairs of answers to one question, of which people chose one: read, and as rows of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from jaxgpt.checks import require
from jaxgpt.data.batches import Block
from jaxgpt.data.buckets import Examples
from jaxgpt.data.config import DataConfig
from jaxgpt.data.conversations import drawn_parts
from jaxgpt.data.packing import Answers
from jaxgpt.data.tables import Record, field_text, read_table, table_file
from jaxgpt.tokenizers import chat

SIDES = ("chosen", "rejected")


class Preference(NamedTuple):
    """A question with either answer, as messages."""

    place: str
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]


def read_preferences(
    config: DataConfig, seed: int, log: Callable[[str], None] = print
) -> tuple[list[Preference], list[Preference]]:
    """Those to train on and those to validate on: of validation_path, or validation_fraction of path, drawn by seed.

    A record is {"prompt", "chosen", "rejected"}, three texts, or "chosen" and "rejected" are lists of messages that
    differ in the last, an assistant's. Raises FileNotFoundError or ValueError, naming the place, for any other, and
    where none is left for a part.
    """
    found = [_preference(record) for record in read_table(table_file(config.path), {}, log)]
    held_apart = config.validation_path is not None
    _, held, train = drawn_parts(found, 0.0, 0.0 if held_apart else config.validation_fraction, seed)
    if held_apart:
        file = table_file(config.validation_path, "data.validation_path")
        held = [_preference(record) for record in read_table(file, {}, log)]
    for part, size in (("training", len(train)), ("validation", len(held))):
        require(size > 0, f"data.path: {part} pairs of answers", size, "one or more")
    return train, held


def _preference(record: Record) -> Preference:
    fields = record.fields
    expected = "chosen and rejected, and prompt unless they are messages"
    require(set(SIDES) <= fields.keys(), f"{record.place}: fields", list(fields), expected)
    if isinstance(fields["chosen"], str):
        require("prompt" in fields, f"{record.place}: fields", list(fields), expected)
        asked = {"role": "user", "content": field_text(record, "prompt")}
        sides = [[asked, {"role": "assistant", "content": field_text(record, side)}] for side in SIDES]
    else:
        sides = [fields[side] for side in SIDES]
        for side, messages in zip(SIDES, sides, strict=True):
            try:
                chat.check(messages)
            except ValueError as error:
                raise ValueError(f"{record.place}: {side}: {error}") from error
        sides = [[dict(message) for message in messages] for messages in sides]
    for side, messages in zip(SIDES, sides, strict=True):
        last = messages[-1]
        require(last["role"] == "assistant", f"{record.place}: {side}", last["role"], "an assistant's last message")
        require(last["content"].strip() != "", f"{record.place}: {side}", "an empty answer", "a text")
    same = sides[0][:-1] == sides[1][:-1]
    require(same, f"{record.place}: rejected", "another question than chosen's", "the same, and another answer")
    return Preference(record.place, *sides)


@dataclass(frozen=True)
class Preferences(Examples):
    """Rows for `BucketBatches`."""

    chosen: Answers
    """One conversation a row, of which the last answer is learnt."""
    rejected: Answers
    reference: Float32[np.ndarray, "pairs"]
    """log p(chosen) - log p(rejected) by the model that is begun with."""
    beta: float
    """Of `losses.dpo`."""

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "pairs 2"]:
        """As Examples.lengths."""
        return np.concatenate([self.chosen.lengths, self.rejected.lengths], 1)

    def gather(self, which: Int64[np.ndarray, "steps batch"], shape: tuple[int, ...]) -> Block:
        """As Examples.gather: what `Answers.gather` gives under "chosen_" and "rejected_", and "reference",
        "beta" and "weights" [steps, batch]."""
        block = {}
        for side, width in zip(SIDES, shape, strict=True):
            rows = getattr(self, side).gather(which, (width,))
            block |= {f"{side}_{name}": x for name, x in rows.items()}
        beta = np.full(which.shape, self.beta, np.float32)
        return block | {"reference": self.reference[which], "beta": beta, "weights": (which >= 0).astype(np.float32)}


def last_answer(learnt: Sequence[bool]) -> list[bool]:
    """True in the last run of True."""
    end = len(learnt) - 1 - list(learnt)[::-1].index(True)
    start = end
    while start > 0 and learnt[start - 1]:
        start -= 1
    return [start <= k <= end for k in range(len(learnt))]
