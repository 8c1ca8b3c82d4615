"""Text on disk as a stream of documents, in one order on every run and in memory that no file's size reaches."""

import codecs
import glob
import gzip
import io
import json
import os
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PYTHON = "python"  # the built-in corpus; a folder of that name is ./python
PIECE = 1 << 18  # characters: small beside memory, large beside the token that a cut might change
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})

# A newline or a space between two visible characters ends a token in every common tokenizer: cut there, and the
# pieces encode as the whole does.
_LINE_END = re.compile(r"(?s).*\S\n(?=\S)")
_WORD_END = re.compile(r"(?s).*\S(?= \S)")


def files(path: str, field: str = "data.path") -> list[Path]:
    """The files that path names: one file, a folder's (recursive, sorted, no hidden or binary ones), a glob's, or
    the standard library's for "python".

    field: the setting to blame in an error.
    Raises FileNotFoundError where nothing has that name, ValueError where nothing in it is text or a file named is not.
    """
    if path == PYTHON:
        library = _walk(Path(sysconfig.get_path("stdlib")), skip=_NOT_LIBRARY)
        return [file for file in library if file.suffix == ".py" and _is_utf8(file)]
    if Path(path).is_dir():
        every = list(_walk(Path(path)))
        found = [file for file in every if not _is_binary(file)]
        if every and not found:
            raise ValueError(f"{field}: found only binary files in {path}, expected UTF-8 text")
    else:
        named = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
        found = [Path(name) for name in named if Path(name).is_file()]
        if not found:
            raise FileNotFoundError(f"{field}: found {path}, no such file or folder")
        if binary := [file for file in found if _is_binary(file)]:
            raise ValueError(f"{field}: found the binary file {binary[0]}, expected UTF-8 text")
    if not any(file.stat().st_size for file in found):
        raise ValueError(f"{field}: found no text in {path}, expected at least one text file that is not empty")
    return found


def pieces(files: Sequence[Path]) -> Iterator[tuple[int, str]]:
    """Every document of the files as (document number, text): one or more consecutive pieces that concatenate to it.

    A text file is one document, each line of a .jsonl file another (its field "text"); .gz is unpacked on the way.
    Documents without text get no number. Pieces have at most twice PIECE characters and are cut at line ends where
    there are any.
    Raises ValueError, naming the file and place, for bytes that are not UTF-8 text, a damaged .gz, a line that is not
    a JSON object with a string "text", and if there is no text at all.
    """
    number = -1
    for file in files:
        with naming_damage(file):
            for document in _documents(file):
                for at, piece in enumerate(_cut(document)):
                    number += at == 0
                    yield number, piece
    if number < 0:
        raise ValueError(f"data: found only empty documents, from {files[0]} on, expected some text")


@contextmanager
def naming_damage(file: Path) -> Iterator[None]:
    """A context to read file in. Raises ValueError, naming it, where it is a damaged .gz."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"data: found a damaged gzip file, {file} ({error})") from error


def open_bytes(file: Path) -> io.BufferedIOBase:
    """The file's bytes, of .gz the unpacked ones."""
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")


def json_record(line: bytes, place: str, expected: str) -> dict[str, Any]:
    """The JSON object of a line. Raises ValueError, naming place and the field expected, for anything else."""
    try:
        record = json.loads(line)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise ValueError(f"data: found bad JSON in {place}: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f'data: found a JSON {type(record).__name__} in {place}, expected an object with "{expected}"')
    return record


def json_text(record: dict[str, Any], field: str, place: str) -> str:
    """The string called field. Raises ValueError, naming place, where there is none that UTF-8 can hold."""
    if field not in record:
        raise ValueError(f'data: found keys {sorted(record)} in {place}, expected "{field}"')
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f'data: found "{field}" of type {type(text).__name__} in {place}, expected a string')
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ValueError(f'data: found "{field}" that UTF-8 cannot hold in {place}: {error}') from error
    return text


def _walk(folder: Path, skip: frozenset[str] = frozenset()) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip and not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _is_binary(file: Path) -> bool:
    with open_bytes(file) as stream:
        try:
            return b"\0" in stream.read(1024)
        except _DAMAGED:
            return False  # damaged: pieces() names it


def _is_utf8(file: Path) -> bool:
    try:
        return "\0" not in file.read_text("utf-8")
    except UnicodeDecodeError:
        return False


def _documents(file: Path) -> Iterator[Iterable[str]]:
    """The file's documents, each as chunks of at most PIECE characters."""
    with open_bytes(file) as stream:
        if not file.name.removesuffix(".gz").endswith(".jsonl"):
            yield _decoded(stream, file)
            return
        for number, line in enumerate(stream, 1):
            if line.strip():
                place = f"{file}, line {number}"
                text = json_text(json_record(line, place, "text"), "text", place)
                yield (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def _decoded(stream: io.BufferedIOBase, file: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # offset of the first byte not decoded yet
    while True:
        chunk = stream.read(PIECE)
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
            bad = chunk.find(b"\0") + pending if b"\0" in chunk else None
        except UnicodeDecodeError as error:
            bad = error.start
        if bad is not None:
            raise ValueError(
                f"data: found a byte that is not UTF-8 text in {file}, at offset {start + bad}, expected UTF-8 text"
            )
        if not chunk:
            return
        start += pending + len(chunk) - len(decoder.getstate()[0])
        yield text


def _cut(chunks: Iterable[str]) -> Iterator[str]:
    held = ""
    for chunk in chunks:
        held += chunk
        if len(held) >= PIECE:
            end = _LINE_END.match(held) or _WORD_END.match(held)
            size = end.end() if end else len(held)
            yield held[:size]
            held = held[size:]
    if held:
        yield held
