"""Tokens on disk: NAME.bin, the little-endian ids that training memory-maps, beside NAME.json, which vouches for it.

A shard appears whole or not at all: both files are written under temporary names, synced and renamed, the header last.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

FORMAT = 1


class StaleError(Exception):
    """No shard of that name can be used as it is; the message is the reason."""


@dataclass(frozen=True)
class Header:
    """What NAME.json holds."""

    format: int
    dtype: str
    tokens: int
    vocab_size: int
    text_bytes: int
    """UTF-8 bytes of the text that the tokens encode, special tokens aside."""
    crc32: int
    fingerprint: dict[str, Any]
    """Whatever the tokens depend on, as JSON."""


def read_shard(path: Path, fingerprint: dict[str, Any]) -> tuple[Integer[np.ndarray, "tokens"], Header]:
    """The memory-mapped tokens of the shard path(.bin, .json) and their header.

    Raises StaleError, with the reason, if the shard is missing, unreadable, truncated or corrupted (every byte is read
    once), or was written under another fingerprint.
    """
    binary = _named(path, ".bin")
    try:
        header = Header(**json.loads(_named(path, ".json").read_text()))
        size = binary.stat().st_size
    except FileNotFoundError as error:
        raise StaleError(f"{Path(error.filename).name} is not there yet") from error
    except (ValueError, TypeError) as error:
        raise StaleError(f"{path.name}.json is not a shard header") from error
    if header.format != FORMAT:
        raise StaleError(f"{path.name}.json has format {header.format}, this program writes {FORMAT}")
    names = sorted(header.fingerprint.keys() | fingerprint.keys())
    if changed := [name for name in names if header.fingerprint.get(name) != fingerprint.get(name)]:
        raise StaleError(f"{', '.join(changed)} changed")
    if size != (expected := header.tokens * np.dtype(header.dtype).itemsize):
        raise StaleError(f"{binary.name} has {size} bytes, expected {expected}")
    if _crc32(binary) != header.crc32:
        raise StaleError(f"{binary.name} is corrupted")
    return np.memmap(binary, dtype=header.dtype, mode="r"), header


class ShardWriter:
    """A context that writes one shard: published on leaving, discarded if an exception leaves with it."""

    def __init__(self, path: Path, vocab_size: int, fingerprint: dict[str, Any]):
        self._path = path
        self._vocab_size = vocab_size
        self._fingerprint = fingerprint
        self._dtype = "<u2" if vocab_size <= 1 << 16 else "<u4"
        self._tokens = self._text_bytes = self._crc32 = 0

    def __enter__(self) -> "ShardWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = _temporary(_named(self._path, ".bin"))
        self._stream = self._temporary.open("wb")
        return self

    def append(self, tokens: list[int], text_bytes: int) -> None:
        """Adds tokens that encode text_bytes of UTF-8. Raises ValueError for an id outside the vocabulary."""
        ids = np.array(tokens, dtype=np.int64)
        outside = ids[(ids < 0) | (ids >= self._vocab_size)]
        if len(outside):
            raise ValueError(f"data.tokenizer: found token id {outside[0]}, expected 0 to {self._vocab_size - 1}")
        raw = ids.astype(self._dtype).tobytes()
        self._stream.write(raw)
        self._crc32 = zlib.crc32(raw, self._crc32)
        self._tokens += len(ids)
        self._text_bytes += text_bytes

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            self._stream.close()
            self._temporary.unlink(missing_ok=True)

    def _publish(self) -> None:
        if not self._tokens:
            raise ValueError(f"data: found too little text for a {self._path.name} part, expected a token or more")
        _sync(self._stream)
        self._stream.close()
        os.replace(self._temporary, _named(self._path, ".bin"))
        header = Header(
            format=FORMAT,
            dtype=self._dtype,
            tokens=self._tokens,
            vocab_size=self._vocab_size,
            text_bytes=self._text_bytes,
            crc32=self._crc32,
            fingerprint=self._fingerprint,
        )
        temporary = _temporary(_named(self._path, ".json"))
        with temporary.open("w") as stream:
            json.dump(asdict(header), stream, indent=1)
            _sync(stream)
        os.replace(temporary, _named(self._path, ".json"))


def _named(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)  # with_suffix would take "train.source" for "train"


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")  # of this process: two runs may build in one folder


def _sync(stream) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _crc32(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            crc = zlib.crc32(chunk, crc)
    return crc
