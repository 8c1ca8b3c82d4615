"""Sentences with their translations on disk, pair by pair: two aligned files, a .tsv or a .jsonl."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from jaxgpt.data.config import DataConfig
from jaxgpt.data.sources import json_record, json_text, naming_damage, open_bytes

VALIDATION = ("val", "valid", "dev")
TRANSLATION = "translation"  # Hugging Face datasets put {"de": ..., "en": ...} under this name
_NAMED = 5  # wrong lines, before the rest is only counted


@dataclass(frozen=True)
class PairFiles:
    """Where pairs are: a file each for source and target, or one and the same."""

    source: Path
    target: Path
    fields: tuple[str, str]
    """The names of source and target in a .jsonl."""

    @property
    def paths(self) -> list[Path]:
        return [self.source] if self.source == self.target else [self.source, self.target]


class Pair(NamedTuple):
    """Source and target, without the white space around them, and the line of their files."""

    line: int
    source: str
    target: str


def pair_files(config: DataConfig) -> tuple[PairFiles, PairFiles | None]:
    """The files of the training pairs and those to validate on, None if these are to be held out.

    Raises FileNotFoundError, naming the setting and what was looked for, where there are none, ValueError for a file
    that is not one of pairs.
    """
    train = _files(config, config.path, "data.path", ["train"])
    if config.validation_path is not None:
        return train, _files(config, config.validation_path, "data.validation_path", VALIDATION)
    if not Path(config.path).is_dir():
        return train, None
    found = (_beginning(config, Path(config.path, name), "data.path") for name in VALIDATION)
    return train, next(filter(None, found), None)


def read_pairs(files: PairFiles) -> Iterator[Pair]:
    """The pairs in order; a .jsonl's blank lines are passed over.

    Raises ValueError, naming file and line, for bytes that are not UTF-8 text, a damaged .gz, a line that is not a
    pair, and for files of different numbers of lines.
    """
    if files.source != files.target:
        return _read_aligned(files)
    return _read_jsonl(files) if _name(files.source).endswith(".jsonl") else _read_tsv(files.source)


def count_pairs(files: PairFiles) -> int:
    """How many pairs there are; raises ValueError as read_pairs does and for an empty source or target, lines named."""
    n = 0
    empty: dict[str, list[int]] = {"source": [], "target": []}
    for pair in read_pairs(files):
        n += 1
        for side, lines in empty.items():
            if not getattr(pair, side):
                lines.append(pair.line)
    for side, lines in empty.items():
        if lines:
            more = f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else ""
            named = f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines[:_NAMED]))}{more}"
            raise ValueError(f"data: found an empty {side} in {getattr(files, side)}, {named}, expected some text")
    if not n:
        raise ValueError(f"data: found no pairs in {files.source}, expected one or more")
    return n


def _files(config: DataConfig, path: str, field: str, names: Sequence[str]) -> PairFiles:
    """What path names. names: what a folder's files may begin with, the first found is taken."""
    if Path(path).is_file():
        return _named(config, Path(path), field)
    folder = Path(path).is_dir()
    beginnings = [Path(path, name) for name in names] if folder else [Path(path)]
    for beginning in beginnings:
        if found := _beginning(config, beginning, field):
            return found
    endings = f".{config.source} and .{config.target} (data.source and data.target), or .tsv, or .jsonl"
    there = sorted(file.name for file in beginnings[0].parent.glob("*" if folder else f"{Path(path).name}.*"))
    raise FileNotFoundError(
        f"{field}: found no pairs at {path}, expected {' or '.join(map(str, beginnings))} with {endings}, "
        f"each perhaps with .gz; there is {', '.join(there[:10]) or 'nothing of that name'}"
    )


def _named(config: DataConfig, file: Path, field: str) -> PairFiles:
    name, fields = _name(file), (config.source, config.target)
    for language in fields:
        if name.endswith(f".{language}") and (
            found := _beginning(config, file.with_name(name.removesuffix(f".{language}")), field)
        ):
            return found
    if name.endswith((".tsv", ".jsonl")):
        return PairFiles(file, file, fields)
    endings = ", ".join(f".{ending}" for ending in (*fields, "tsv"))
    raise ValueError(f"{field}: found the file {file}, expected its name to end in {endings} or .jsonl, or then in .gz")


def _beginning(config: DataConfig, beginning: Path, field: str) -> PairFiles | None:
    """The files whose names begin so: both languages', or one with both. None if there are none."""
    fields = config.source, config.target
    source, target = (_either(beginning, language) for language in fields)
    if source and target:
        return PairFiles(source, target, fields)
    if one := source or target:
        other = f"{beginning}.{config.target if source else config.source}"
        raise FileNotFoundError(f"{field}: found {one} without the other language, expected {other} or {other}.gz too")
    for ending in ("tsv", "jsonl"):
        if both := _either(beginning, ending):
            return PairFiles(both, both, fields)
    return None


def _either(beginning: Path, ending: str) -> Path | None:
    names = (beginning.with_name(f"{beginning.name}.{ending}{packed}") for packed in ("", ".gz"))
    return next((file for file in names if file.is_file()), None)


def _name(file: Path) -> str:
    return file.name.removesuffix(".gz")


def _read_aligned(files: PairFiles) -> Iterator[Pair]:
    lines = zip_longest(_lines(files.source), _lines(files.target))
    for number, (source, target) in enumerate(lines, 1):
        if source is None or target is None:
            shorter, longer = number - 1, number + sum(1 for _ in lines)
            counts = (shorter, longer) if source is None else (longer, shorter)
            found = " and ".join(f"{n} in {file}" for n, file in zip(counts, files.paths, strict=True))
            raise ValueError(f"data: found {found}, expected as many lines in both")
        yield Pair(number, source.strip(), target.strip())


def _read_tsv(file: Path) -> Iterator[Pair]:
    for number, line in enumerate(_lines(file), 1):
        columns = line.split("\t")
        if len(columns) != 2:
            expected = "2: source TAB target"
            raise ValueError(f"data: found {len(columns)} columns in {file}, line {number}, expected {expected}")
        yield Pair(number, columns[0].strip(), columns[1].strip())


def _read_jsonl(files: PairFiles) -> Iterator[Pair]:
    for number, line in enumerate(_lines(files.source), 1):
        if not line.strip():
            continue
        place = f"{files.source}, line {number}"
        record = json_record(line.encode(), place, files.fields[0])
        if TRANSLATION in record and isinstance(record[TRANSLATION], dict):
            record = record[TRANSLATION]
        source, target = (json_text(record, field, place) for field in files.fields)
        yield Pair(number, source.strip(), target.strip())


def _lines(file: Path) -> Iterator[str]:
    with naming_damage(file), open_bytes(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:  # as in jaxgpt.data.sources
                found = f"a byte that is not UTF-8 text in {file}, line {number}"
                raise ValueError(f"data: found {found}, expected UTF-8 text")
            yield text.rstrip("\r\n")
