"""Texts that tokenizers get wrong."""

import random
import unicodedata
from itertools import chain

import pytest

PIECES = [
    *("\r", "\n", "\r\n", "\t", "\x00", "\x1c", "\x7f", "\x85", "\u2028", "\xa0", "\u3000", "  ", " " * 17, "\n\n\n"),
    *("<|endoftext|>", "<|unk|>", "<s>", "</s>", "<unk>", "<0x41>", "<|endoftext", "\ufffd", "\ufeff", "\u200b"),
    *(
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "👍🏽",
        "🇺🇳",
        "e\u0301",
        "a\u0300\u0323\u0342",
        "ﷺ",
        "한국어",
        "नमस्ते",
        "日本語",
        "שלום",
        "İ",
        "ß",
    ),
    *("it's", "WE'LL", " don't", "naïve", "--", "...", "1234567", " 3.14", "x_y", "https://a.b/c?d=e&f"),
]


def random_text(rng: random.Random) -> str:
    """Up to 24 of PIECES and of code points of all planes, surrogates left out."""
    points = (chr(rng.randrange(0x110000 if rng.random() < 0.5 else 0x300)) for _ in range(rng.randrange(16)))
    parts = [*(c for c in points if unicodedata.category(c) != "Cs"), *rng.choices(PIECES, k=rng.randrange(9))]
    rng.shuffle(parts)
    return "".join(parts)


@pytest.fixture(scope="session")
def unicode_texts() -> list[str]:
    """10,000 random texts, the same in every run."""
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(10_000)]
    assert {ord(c) >> 16 for c in chain.from_iterable(texts)} == set(range(17))
    return texts
