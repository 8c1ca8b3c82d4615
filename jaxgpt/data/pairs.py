"""Translation pairs to tokens, once: a joint tokenizer and a shard for each side of each part."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from jaxgpt import tokenizers
from jaxgpt.checks import require
from jaxgpt.data.batches import Block
from jaxgpt.data.buckets import Examples
from jaxgpt.data.cache import Recipe, batched, open_shards, stats, tokenizer_recipe, write_shards
from jaxgpt.data.config import DataConfig
from jaxgpt.data.pair_files import Pair, PairFiles, count_pairs, pair_files, read_pairs
from jaxgpt.data.sequences import Sequences
from jaxgpt.data.shards import ShardWriter, StaleError
from jaxgpt.data.split import Part, held_out

SIDES: tuple[Literal["source", "target"], ...] = ("source", "target")
SHARDS = [f"{part}.{side}" for part in ("train", "validation") for side in SIDES]


@dataclass(frozen=True)
class Pairs(Examples):
    """source[i] is translated by target[i]: token ids, each sequence ended by end-of-text."""

    source: Sequences
    target: Sequences
    files: PairFiles
    numbers: Int64[np.ndarray, "pairs"]
    """Which of the files' pairs each is."""

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "pairs 2"]:
        """As Examples.lengths: of the source and of the target."""
        return np.stack([self.source.lengths, self.target.lengths], 1)

    def gather(self, which: Int64[np.ndarray, "steps batch"], shape: tuple[int, ...]) -> Block:
        """As Examples.gather. "source" and "source_mask" [steps, batch, S]; "inputs", "targets" and "weights"
        [steps, batch, T], where end-of-text ends each source, starts the inputs, ends the targets and fills up the rest
        (of weight 0)."""
        real = which >= 0
        source, source_mask = self.source.rows(which, shape[0])
        targets, weights = self.target.rows(which, shape[1])
        if not real.all():
            source[~real], targets[~real] = self.source.end, self.target.end
            source_mask[~real] = np.arange(shape[0]) == 0  # not empty: a softmax over nothing is NaN
            weights[~real] = False
        start = np.full_like(targets[..., :1], self.target.end)
        return {
            "source": source,
            "source_mask": source_mask,
            "inputs": np.concatenate([start, targets[..., :-1]], axis=-1),
            "targets": targets,
            "weights": weights.astype(np.float32),
        }


@dataclass(frozen=True)
class PairDataset:
    """The two parts of a text and its translation as token ids, memory-mapped."""

    tokenizer: tokenizers.Tokenizer
    train: Pairs
    validation: Pairs
    identity: str
    """A hash of tokenizer and tokens: the same for the same, wherever and whenever they were made."""


def check_pairs(config: DataConfig) -> None:
    """Raise what `prepare_pairs` would for the files and the tokenizer that the config names, having only looked for
    them: FileNotFoundError for what is not there, ValueError for a tokenizer without an end-of-text token."""
    tokenizers.check(config.tokenizer, "data.tokenizer")
    _require_end(config, config.tokenizer != "char")
    pair_files(config)


def prepare_pairs(config: DataConfig, cache: Path, log: Callable[[str], None] = print) -> PairDataset:
    """The pairs of config: opened in the folder cache if they are there, whole and up to date, else built there first.

    log: told what is built and why.
    A tokenizer that is trained learns from both sides of the training part, in which a source and its target share
    names and numbers. Every text is without the white space around it, and end-of-text follows it.
    Raises FileNotFoundError or ValueError, naming the setting or the file and line, if config names no readable pairs,
    before anything is written; ValueError for a tokenizer without an end-of-text token, or where no pair is left to
    train or to validate on.
    """
    train, validation = pair_files(config)
    recipe = {
        "the pairs": [stats(train.paths), config.source, config.target],
        "the held-out pairs": stats(validation.paths) if validation else config.validation_fraction,
        "data.tokenizer": tokenizer_recipe(config),
    }
    try:
        return _open(config, train, validation, cache, recipe)
    except StaleError as reason:
        check_pairs(config)
        log(f"data: preparing {config.path} ({reason})")
    _build(config, train, validation, cache, recipe)
    dataset = _open(config, train, validation, cache, recipe)
    tokens = [f"{len(side.tokens):,}" for part in (dataset.train, dataset.validation) for side in _sides(part)]
    log(f"data: {len(dataset.train):,} training pairs of {tokens[0]} and {tokens[1]} tokens")
    log(f"data: {len(dataset.validation):,} validation pairs of {tokens[2]} and {tokens[3]} tokens")
    return dataset


def check_lengths(dataset: PairDataset, context_length: int) -> None:
    """Raise ValueError, naming file and line, where a source or a target, its end-of-text included, is longer."""
    for part in (dataset.train, dataset.validation):
        for side, sequences in zip(SIDES, _sides(part), strict=True):
            long = np.flatnonzero(sequences.lengths > context_length)
            if len(long):
                number = int(part.numbers[long[0]])
                line = next(islice(read_pairs(part.files), number, None)).line
                raise ValueError(
                    f"data: found {sequences.lengths[long[0]]} tokens in the {side} of "
                    f"{getattr(part.files, side)}, line {line}, its end included ({len(long)} of them too long, at "
                    f"most {sequences.lengths.max()}), expected at most model.context_length={context_length}"
                )


def _require_end(config: DataConfig, condition: bool) -> None:
    require(condition, "data.tokenizer", config.tokenizer, "one with an end-of-text token, which ends each sentence")


def _sides(pairs: Pairs) -> tuple[Sequences, Sequences]:
    return pairs.source, pairs.target


def _open(
    config: DataConfig, train: PairFiles, validation: PairFiles | None, cache: Path, recipe: Recipe
) -> PairDataset:
    opened = open_shards(cache, SHARDS, recipe)
    sides = [Sequences.split(tokens, opened.tokenizer.end_of_text) for tokens, _ in opened.shards]
    n_train, n_validation = len(sides[0]), len(sides[2])
    if validation:
        numbers = np.arange(n_train), np.arange(n_validation)
    else:
        held = held_out(n_train + n_validation, config.validation_fraction)
        numbers = np.flatnonzero(~held), np.flatnonzero(held)
    return PairDataset(
        opened.tokenizer,
        Pairs(sides[0], sides[1], train, numbers[0]),
        Pairs(sides[2], sides[3], validation or train, numbers[1]),
        opened.identity,
    )


def _build(config: DataConfig, train: PairFiles, validation: PairFiles | None, cache: Path, recipe: Recipe) -> None:
    n = count_pairs(train)
    if validation:
        count_pairs(validation)  # every error of the text before the work on it
        held = np.zeros(n, bool)
    else:
        held = held_out(n, config.validation_fraction)
        expected = f"a share that holds out one or more of {n} pairs"
        require(bool(held.any()), "data.validation_fraction", config.validation_fraction, expected)

    def parts() -> Iterator[tuple[Part, Pair]]:
        for out, pair in zip(held, read_pairs(train), strict=True):
            yield "validation" if out else "train", pair
        if validation:
            yield from (("validation", pair) for pair in read_pairs(validation))

    def texts() -> Iterator[str]:
        return chain.from_iterable((pair.source, pair.target) for part, pair in parts() if part == "train")

    tokenizer = tokenizers.create(config.tokenizer, texts, config.vocab_size)
    _require_end(config, tokenizer.end_of_text is not None)
    with write_shards(cache, SHARDS, recipe, tokenizer) as shards:
        _encode(tokenizer, parts(), dict(zip(SHARDS, shards, strict=True)))


def _encode(
    tokenizer: tokenizers.Tokenizer, parts: Iterator[tuple[Part, Pair]], shards: dict[str, ShardWriter]
) -> None:
    for batch in batched(parts, lambda item: len(item[1].source) + len(item[1].target)):
        for side in SIDES:
            texts = [getattr(pair, side) for _, pair in batch]
            for (part, _), text, tokens in zip(batch, texts, tokenizer.encode_batch(texts), strict=True):
                shards[f"{part}.{side}"].append([*tokens, tokenizer.end_of_text], len(text.encode()))
