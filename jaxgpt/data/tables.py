"""Records with named fields on disk: .csv, .tsv, .jsonl, .json, each perhaps as .gz, and .parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.checks import require
from jaxgpt.data.sources import json_record, naming_damage, open_bytes

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


class Record(NamedTuple):
    """One record of a file, and where it is, for an error to name."""

    place: str
    fields: dict[str, Any]


def table_file(path: str, field: str = "data.path") -> Path:
    """The file of that name. Raises FileNotFoundError where there is none, ValueError for one of no known ending."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{field}: found {path}, no such file, expected one in {', '.join(ENDINGS)}")
    require(_ending(file) in ENDINGS, field, path, f"a name in {', '.join(ENDINGS)}, or those but parquet in .gz")
    return file


def read_table(file: Path, columns: dict[str, str], log: Callable[[str], None] = print) -> Iterator[Record]:
    """The records of a file, as many as it has, with the fields that are named.

    columns: the setting ("data.text") and the name of each field. A table of two columns whose first row names none of
    them has no header: the column that repeats itself more is the last of `columns`, the other the first; log is told.
    Raises ValueError, naming what was found, for a field that is missing, a row of another width, bytes that are no
    UTF-8 text or no JSON.
    """
    with naming_damage(file):
        match _ending(file):
            case ".parquet":
                records = _parquet(file, columns)
            case ".jsonl" | ".json":
                records = _json(file)
            case ending:
                records = _table(file, ending, columns, log)
        for place, fields in records:
            for setting, name in columns.items():
                require(name in fields, setting, name, f"one of the fields of {place}: {', '.join(map(str, fields))}")
            yield Record(place, fields)


def field_text(record: Record, name: str) -> str:
    """The text of a field. Raises ValueError, naming the place, for one that is none, or that UTF-8 can't hold."""
    found = record.fields[name]
    require(isinstance(found, str), f"{record.place}: {name}", found, "a text")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON can escape half of a surrogate pair
        raise ValueError(f"{record.place}: {name}: found text that UTF-8 cannot hold ({error})") from error
    return found


def _ending(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix.lower()


def _text(file: Path) -> str:
    with open_bytes(file) as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8-sig")  # spreadsheets put a mark in front
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"data: found a byte that is not UTF-8 text in {file}, line {line}") from error


def _table(
    file: Path, ending: str, columns: dict[str, str], log: Callable[[str], None]
) -> Iterator[tuple[str, dict[str, str]]]:
    # Quotes are part of the text in a .tsv, as the data sets that come so have it; in a .csv they are not.
    quoting = csv.QUOTE_NONE if ending == ".tsv" else csv.QUOTE_MINIMAL
    reader = csv.reader(
        io.StringIO(_text(file), newline=""), delimiter="\t" if ending == ".tsv" else ",", quoting=quoting
    )
    csv.field_size_limit(1 << 30)  # a text is a field
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"data: found bad CSV in {file}, line {reader.line_num}: {error}") from error
    require(len(rows) > 0, "data", str(file), "a file with some rows")
    header = rows[0][1]
    wanted = list(columns.values())
    if len(header) == 2 and len(wanted) == 2 and not set(header) & set(wanted):
        names = _guess([row for _, row in rows], wanted)
        label = names.index(wanted[-1]) + 1
        log(f"data: {file} has no header: column {label} is taken for the {wanted[-1]}, the other for the {wanted[0]}")
    else:
        names, rows = header, rows[1:]
    for line, row in rows:
        expected = f"{len(names)}: {', '.join(names)}"
        require(len(row) == len(names), f"data: columns in {file}, line {line}", len(row), expected)
        yield f"{file}, line {line}", dict(zip(names, row, strict=True))


def _guess(rows: list[list[str]], wanted: list[str]) -> list[str]:
    """The names of two columns without a header: of fewer different values is the last of the wanted."""
    kinds = [len({row[i] for row in rows if len(row) > i}) for i in (0, 1)]
    return wanted if kinds[1] <= kinds[0] else wanted[::-1]


def _json(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _text(file)
    if _ending(file) == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):  # other line breaks may stand within a JSON text
            if line.strip():
                place = f"{file}, line {number}"
                yield place, json_record(line.encode(), place, "fields")
        return
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"data: found bad JSON in {file}: {error}") from error
    require(isinstance(found, list), f"data: {file}", f"a JSON {type(found).__name__}", "a list of objects")
    for number, record in enumerate(found):
        place = f"{file}, record {number}"
        require(isinstance(record, dict), f"data: {place}", f"a JSON {type(record).__name__}", "an object")
        yield place, record


def _parquet(file: Path, columns: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    require(
        find_spec("pyarrow") is not None, "data.path", str(file), "pyarrow, to read it: pip install 'jaxgpt[parquet]'"
    )
    import pyarrow
    from pyarrow import parquet

    try:
        source = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise ValueError(f"data: found a damaged file, {file} ({error})") from error
    names = source.schema_arrow.names
    for setting, name in columns.items():
        require(name in names, setting, name, f"one of the columns of {file}: {', '.join(names)}")
    number = 0
    for batch in source.iter_batches():
        for row in batch.to_pylist():
            yield f"{file}, row {number}", row
            number += 1
