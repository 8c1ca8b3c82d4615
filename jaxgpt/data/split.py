"""Which characters of which documents are for training, and which are held out for validation."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

Part = Literal["train", "validation"]
MANY = 10  # held-out documents, from which on whole ones look like the rest


def training_characters(lengths: Int64[np.ndarray, "documents"], fraction: float) -> Int64[np.ndarray, "documents"]:
    """How many leading characters of each document are for training, when fraction of the text is held out.

    lengths: characters of each document.
    Where MANY documents can be held out, whole ones are, evenly spread: all of a document or 0. With fewer, one long
    document could be half of the text, so each gives its own end: int(length * (1 - fraction)), as nanoGPT does.
    """
    if len(lengths) * fraction < MANY:
        return (lengths * (1 - fraction)).astype(np.int64)
    return np.where(held_out(len(lengths), fraction), 0, lengths)


def held_out(n: int, fraction: float) -> Bool[np.ndarray, "{n}"]:
    """Which of n items are held out: int(n * fraction) of them, evenly spread."""
    return np.diff(np.floor(np.arange(n + 1) * fraction)) > 0


def split(
    pieces: Iterable[tuple[int, str]], training: Int64[np.ndarray, "documents"]
) -> Iterator[tuple[Part, int, str]]:
    """Pieces of documents as (part, document, text): the first training[document] characters train, the rest validate.

    pieces: (document, text), the pieces of a document consecutive.
    """
    for document, group in groupby(pieces, key=lambda piece: piece[0]):
        left = int(training[document])
        for _, text in group:
            if left > 0:
                yield "train", document, text[:left]
            if left < len(text):
                yield "validation", document, text[left:]
            left = max(0, left - len(text))
