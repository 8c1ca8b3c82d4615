"""The tokenizer.json of the tokenizers that are trained here, for every other program; written by hand, as the
tokenizers library is an extra."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgpt.tokenizers.base import CONFIG_FILE, END_OF_TEXT, FILE

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def byte_pairs(ranks: Mapping[bytes, int], pattern: str, special: Mapping[str, int]) -> dict[str, str]:
    """The files of a byte-level BPE; none where a token is not made of two others, as a merge makes it."""
    merges = [_halves(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
    if not all(len(parts) == 2 for parts in merges):
        return {}
    names = _byte_names()
    spelt = {token: "".join(map(names.__getitem__, token)) for token in ranks}
    model = {
        "type": "BPE",
        # A special token outside the vocabulary would get the next free id.
        "vocab": {spelt[token]: i for token, i in ranks.items()} | dict(special),
        "merges": [[spelt[part] for part in parts] for parts in merges],
        "ignore_merges": True,  # as tiktoken, which looks for the whole piece first
    }
    return _files(model, [_isolated(pattern), _BYTE_LEVEL], _BYTE_LEVEL, special)


def characters(known: Sequence[str]) -> dict[str, str]:
    """The files of one token a character; none where a character is half of a surrogate pair, which is no text."""
    if any("\ud800" <= character <= "\udfff" for character in known):
        return {}
    return _files(_word_level(known, "<unk>"), [_isolated(r"[\s\S]")], {"type": "Fuse"}, {})


def words(
    known: Sequence[str], separator: str, unknown: str, no_space_before: frozenset[str], special: Mapping[str, int]
) -> dict[str, str]:
    """The files of one token a word, spaces dropped; `separator` says what ends a word. known: special tokens too."""
    spaces = {"type": "Split", "pattern": {"Regex": _SPACE}, "behavior": "Removed", "invert": False}
    # Of the library's decoders WordPiece alone puts spaces between tokens; no token begins with what it would join.
    spaced = {"type": "WordPiece", "prefix": "  ", "cleanup": False}
    closed = [
        {"type": "Replace", "pattern": {"String": f" {mark}"}, "content": mark} for mark in sorted(no_space_before)
    ]
    decoder = {"type": "Sequence", "decoders": [spaced, {"type": "Fuse"}, *closed]}
    return _files(_word_level(known, unknown), [_isolated(separator.replace(r"\s", _SPACE)), spaces], decoder, special)


# What Python takes for white space: other regular expressions leave out U+001C to U+001F.
_SPACE = "[" + "".join(rf"\x{{{point:x}}}" for point in range(0x3001) if chr(point).isspace()) + "]"


def _files(
    model: dict[str, Any], pre_tokenizers: list[dict[str, Any]], decoder: dict[str, Any], special: Mapping[str, int]
) -> dict[str, str]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    definition = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": token} | flags for token, i in special.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if END_OF_TEXT in special:
        config |= dict.fromkeys(("eos_token", "pad_token"), END_OF_TEXT)  # without the latter no batches there
    return {FILE: json.dumps(definition), CONFIG_FILE: json.dumps(config, indent=2)}


def _isolated(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _word_level(known: Sequence[str], unknown: str) -> dict[str, Any]:
    return {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(known)}, "unk_token": unknown}


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """What the merges before token's own leave of it: the two parts that its merge joins."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        pairs = [(ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1)]
        rank, i = min(pairs)
        if rank >= ranks[token]:
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _byte_names() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself, or one from U+0100 if it is no sign.

    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    signs = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in signs else next(others)) for byte in range(256)]
