"""Text to tokens, once: a folder with the tokenizer and the shards of both parts, built again when anything changed."""

import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from jaxgpt import tokenizers
from jaxgpt.data.config import DataConfig
from jaxgpt.data.shards import ShardWriter, StaleError, read_shard
from jaxgpt.data.sources import files, pieces
from jaxgpt.data.split import Part, split, training_characters

BATCH = 1 << 21  # characters encoded at once: enough pieces for every core of a tokenizer that has threads


@dataclass(frozen=True)
class Dataset:
    """The two parts of a text as token ids, memory-mapped."""

    tokenizer: tokenizers.Tokenizer
    train: Integer[np.ndarray, "train_tokens"]
    validation: Integer[np.ndarray, "validation_tokens"]
    train_bytes: int
    """UTF-8 bytes of the training text: with the number of its tokens, what bits per byte needs."""
    validation_bytes: int
    """UTF-8 bytes of the validation text."""
    identity: str
    """A hash of tokenizer and tokens: the same for the same, wherever and whenever they were made."""


def prepare(config: DataConfig, cache: Path, log: Callable[[str], None] = print) -> Dataset:
    """The dataset of config: opened in the folder cache if it is there, whole and up to date, else built there first.

    log: told what is built and why.
    Documents are divided by the tokenizer's end-of-text token, if it has one. The text is read once to check it, once
    to train a tokenizer and once to encode it, in memory that does not grow with it. One process at a time may build
    in a cache; any number may open it.
    Raises FileNotFoundError or ValueError, naming the setting or the file and place, if config names no readable text,
    before anything is written; ValueError if a part has no tokens or the tokenizer exceeds its own vocabulary.
    """
    train = files(config.path)
    validation = [] if config.validation_path is None else files(config.validation_path, "data.validation_path")
    recipe = _recipe(config, train, validation)
    try:
        return _open(cache, recipe)
    except StaleError as reason:
        tokenizers.check(config.tokenizer, "data.tokenizer")
        log(f"data: preparing {config.path} ({reason})")
    _build(config, train, validation, cache, recipe)
    dataset = _open(cache, recipe)
    log(f"data: {len(dataset.train):,} training and {len(dataset.validation):,} validation tokens")
    return dataset


def _recipe(config: DataConfig, train: list[Path], validation: list[Path]) -> dict[str, Any]:
    """What a dataset depends on, in JSON, under names that a log can show."""
    kind, _, argument = config.tokenizer.partition(":")
    return {
        "the text": _stats(train),
        "the held-out text": _stats(validation) or config.validation_fraction,
        "data.tokenizer": [
            config.tokenizer,
            config.vocab_size,
            _stats(files(argument.removeprefix("cased:"), "data.tokenizer") if kind in ("json", "vocab") else []),
        ],
    }


def _stats(paths: list[Path]) -> list[list[Any]]:
    return [[str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]


def _fingerprint(recipe: dict[str, Any], cache: Path) -> dict[str, Any]:
    return recipe | {"the saved tokenizer": _hashes(cache / "tokenizer")}


def _hashes(folder: Path) -> dict[str, str]:
    saved = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in saved}


def _open(cache: Path, recipe: dict[str, Any]) -> Dataset:
    fingerprint = _fingerprint(recipe, cache)
    train, train_header = read_shard(cache / "train", fingerprint)
    validation, validation_header = read_shard(cache / "validation", fingerprint)
    contents = [_hashes(cache / "tokenizer"), train_header.crc32, validation_header.crc32]
    return Dataset(
        tokenizers.load(cache / "tokenizer"),
        train,
        validation,
        train_header.text_bytes,
        validation_header.text_bytes,
        hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
    )


def _build(config: DataConfig, train: list[Path], validation: list[Path], cache: Path, recipe: dict[str, Any]) -> None:
    lengths = _lengths(pieces(train))
    if validation:
        _lengths(pieces(validation))  # every error of the text before the work on it
    training = lengths if validation else training_characters(lengths, config.validation_fraction)

    def parts() -> Iterator[tuple[Part, int, str]]:
        yield from split(pieces(train), training)
        if validation:
            yield from (("validation", document, text) for document, text in pieces(validation))

    def texts() -> Iterator[str]:
        # A character tokenizer has no way to spell what it has not seen; a trained one must not see what is held out.
        return (text for part, _, text in parts() if part == "train" or config.tokenizer == "char")

    tokenizer = tokenizers.create(config.tokenizer, texts, config.vocab_size)
    shutil.rmtree(cache / "tokenizer", ignore_errors=True)
    tokenizer.save(cache / "tokenizer")
    fingerprint = _fingerprint(recipe, cache)
    with (
        ShardWriter(cache / "train", tokenizer.vocab_size, fingerprint) as train_shard,
        ShardWriter(cache / "validation", tokenizer.vocab_size, fingerprint) as validation_shard,
    ):
        _encode(tokenizer, parts(), {"train": train_shard, "validation": validation_shard})


def _lengths(pieces: Iterable[tuple[int, str]]) -> Int64[np.ndarray, "documents"]:
    lengths = array("q")  # 8 bytes a document: a list would hold 36
    for document, text in pieces:
        if document == len(lengths):
            lengths.append(0)
        lengths[document] += len(text)
    return np.frombuffer(lengths, dtype=np.int64)


def _encode(
    tokenizer: tokenizers.Tokenizer, parts: Iterable[tuple[Part, int, str]], shards: dict[Part, ShardWriter]
) -> None:
    last: dict[Part, int] = {}
    end_of_text = tokenizer.end_of_text
    for batch in _batched(parts):
        encoded = tokenizer.encode_batch([text for _, _, text in batch])
        for (part, document, text), tokens in zip(batch, encoded, strict=True):
            if end_of_text is not None and last.get(part, document) != document:
                tokens = [end_of_text, *tokens]
            shards[part].append(tokens, len(text.encode()))
            last[part] = document


def _batched(parts: Iterable[tuple[Part, int, str]]) -> Iterator[list[tuple[Part, int, str]]]:
    batch, size = [], 0
    for item in parts:
        batch.append(item)
        size += len(item[2])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
