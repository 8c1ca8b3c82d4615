"""Text to tokens, once: a folder with the tokenizer and the shards of both parts, built again when anything changed."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from jaxgpt import tokenizers
from jaxgpt.data.cache import Recipe, batched, open_shards, stats, tokenizer_recipe, write_shards
from jaxgpt.data.config import DataConfig
from jaxgpt.data.shards import ShardWriter, StaleError
from jaxgpt.data.sources import files, pieces
from jaxgpt.data.split import Part, split, training_characters

PARTS: tuple[Part, ...] = ("train", "validation")


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
    recipe = {
        "the text": stats(train),
        "the held-out text": stats(validation) or config.validation_fraction,
        "data.tokenizer": tokenizer_recipe(config),
    }
    try:
        return _open(cache, recipe)
    except StaleError as reason:
        tokenizers.check(config.tokenizer, "data.tokenizer")
        log(f"data: preparing {config.path} ({reason})")
    _build(config, train, validation, cache, recipe)
    dataset = _open(cache, recipe)
    log(f"data: {len(dataset.train):,} training and {len(dataset.validation):,} validation tokens")
    return dataset


def _open(cache: Path, recipe: Recipe) -> Dataset:
    opened = open_shards(cache, PARTS, recipe)
    (train, train_header), (validation, validation_header) = opened.shards
    return Dataset(
        opened.tokenizer,
        train,
        validation,
        train_header.text_bytes,
        validation_header.text_bytes,
        opened.identity,
    )


def _build(config: DataConfig, train: list[Path], validation: list[Path], cache: Path, recipe: Recipe) -> None:
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
    with write_shards(cache, PARTS, recipe, tokenizer) as shards:
        _encode(tokenizer, parts(), dict(zip(PARTS, shards, strict=True)))


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
    for batch in batched(parts, lambda item: len(item[2])):
        encoded = tokenizer.encode_batch([text for _, _, text in batch])
        for (part, document, text), tokens in zip(batch, encoded, strict=True):
            if end_of_text is not None and last.get(part, document) != document:
                tokens = [end_of_text, *tokens]
            shards[part].append(tokens, len(text.encode()))
            last[part] = document
