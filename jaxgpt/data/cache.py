"""A folder with a tokenizer and the shards it encoded, opened while nothing that they depend on has changed."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer

from jaxgpt import tokenizers
from jaxgpt.data.config import DataConfig
from jaxgpt.data.shards import Header, ShardWriter, read_shard
from jaxgpt.data.sources import files

BATCH = 1 << 21  # characters encoded at once: enough pieces for every core of a tokenizer that has threads

Recipe = dict[str, Any]
"""What shards depend on, in JSON, under names that a log can show."""
T = TypeVar("T")


@dataclass(frozen=True)
class Opened:
    """What a cache holds."""

    tokenizer: tokenizers.Tokenizer
    shards: list[tuple[Integer[np.ndarray, "_"], Header]]
    identity: str
    """A hash of tokenizer and tokens: the same for the same, wherever and whenever they were made."""


def tokenizer_recipe(config: DataConfig) -> list[Any]:
    """What the tokenizer depends on beside the text."""
    kind, _, argument = config.tokenizer.partition(":")
    used = stats(files(argument.removeprefix("cased:"), "data.tokenizer") if kind in ("json", "vocab") else [])
    return [config.tokenizer, config.vocab_size, used]


def stats(paths: Sequence[Path]) -> list[list[Any]]:
    """What tells a file from a changed one without reading it."""
    return [[str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]


def open_shards(cache: Path, names: Sequence[str], recipe: Recipe) -> Opened:
    """The named shards, memory-mapped. Raises StaleError if one can't be used or was made by another recipe."""
    fingerprint = _fingerprint(recipe, cache)
    shards = [read_shard(cache / name, fingerprint) for name in names]
    contents = [_hashes(cache / "tokenizer"), *(header.crc32 for _, header in shards)]
    identity = hashlib.sha256(json.dumps(contents).encode()).hexdigest()
    return Opened(tokenizers.load(cache / "tokenizer"), shards, identity)


@contextmanager
def write_shards(
    cache: Path, names: Sequence[str], recipe: Recipe, tokenizer: tokenizers.Tokenizer
) -> Iterator[list[ShardWriter]]:
    """A context with a writer of each named shard: the tokenizer is saved first, the shards appear at its end."""
    shutil.rmtree(cache / "tokenizer", ignore_errors=True)
    tokenizer.save(cache / "tokenizer")
    fingerprint = _fingerprint(recipe, cache)
    with ExitStack() as stack:
        yield [stack.enter_context(ShardWriter(cache / name, tokenizer.vocab_size, fingerprint)) for name in names]


def batched(items: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """items in lists of about BATCH characters."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        size += characters(item)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fingerprint(recipe: Recipe, cache: Path) -> Recipe:
    return recipe | {"the saved tokenizer": _hashes(cache / "tokenizer")}


def _hashes(folder: Path) -> dict[str, str]:
    saved = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in saved}
