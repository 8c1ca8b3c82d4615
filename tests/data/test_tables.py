"""Files of records: what is read of each form, and by what words a bad one is refused."""

import csv
import gzip
import json
import re
import string

import numpy as np
import pytest

from jaxgpt.data.tables import Record, field_text, read_table, table_file

COLUMNS = {"data.text": "text", "data.label": "label"}
TEXTS = ['say "hi", now', "a\ttab", "two\nlines", " spaces  kept ", "naïve 😀", ""]
ROWS = [{"label": f"class {i % 2}", "text": text, "more": str(i)} for i, text in enumerate(TEXTS)]


def fields(file, columns=COLUMNS, log=None):
    return [record.fields for record in read_table(file, columns, log or (lambda line: pytest.fail(line)))]


def write(file, content):
    content = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def as_json(rows):
    return json.dumps(rows)


def as_jsonl(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n"


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize(("ending", "made"), [(".json", as_json), (".jsonl", as_jsonl)])
def test_json_holds_any_text_and_any_field(tmp_path, ending, made, gz):
    rows = [row | {"number": 1.5, "nothing": None} for row in ROWS] + [{"text": "line\u2028break", "label": 3}]
    assert fields(write(tmp_path / f"a{ending}{gz}", made(rows))) == rows


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_csv_is_what_pythons_writer_wrote(tmp_path, gz):
    with (tmp_path / "plain.csv").open("w", newline="", encoding="utf-8-sig") as stream:  # as spreadsheets mark it
        writer = csv.DictWriter(stream, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    assert fields(write(tmp_path / f"a.CSV{gz}", (tmp_path / "plain.csv").read_bytes())) == ROWS


def test_a_field_may_be_long(tmp_path):
    text = "word " * 100_000
    assert fields(write(tmp_path / "a.csv", f"text,label\n{text},a\n")) == [{"text": text, "label": "a"}]


def test_quotes_are_text_in_a_tsv(tmp_path):
    file = write(tmp_path / "a.tsv", 'label\ttext\r\nham\t"so to say\r\n\r\nspam\t""free""\r\n')
    assert fields(file) == [{"label": "ham", "text": '"so to say'}, {"label": "spam", "text": '""free""'}]


def test_parquet_rows_have_their_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": text, "label": i, "more": [i, i]} for i, text in enumerate(TEXTS)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    found = list(read_table(tmp_path / "a.parquet", COLUMNS))
    assert [record.fields for record in found] == rows
    assert found[3].place == f"{tmp_path / 'a.parquet'}, row 3"


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("ending", [".tsv", ".csv"])
def test_two_columns_without_a_header_tell_which_is_the_label(tmp_path, ending, label):
    """By brute force: whichever column repeats itself is the label, and log is told."""
    draw = np.random.default_rng(label)
    texts = ["".join(draw.choice([*string.ascii_lowercase, " "], 12)) for _ in range(30)]
    rows = [(str(draw.choice(["ham", "spam"])), text)[:: 1 if label == 0 else -1] for text in texts]
    mark, said = "\t" if ending == ".tsv" else ",", []
    file = write(tmp_path / f"a{ending}", "".join(f"{mark.join(row)}\n" for row in rows))
    found = fields(file, log=said.append)
    assert [one["text"] for one in found] == texts
    assert [one["label"] for one in found] == [row[label] for row in rows]
    assert said == [f"data: {file} has no header: column {label + 1} is taken for the label, the other for the text"]


def test_names_that_are_none_of_the_headers_are_refused_with_those_that_are(tmp_path):
    three = write(tmp_path / "a.csv", "sentence,class,id\nyes,1,7\n")
    expected = f"data.text: found 'text', expected one of the fields of {three}, line 2: sentence, class, id"
    with pytest.raises(ValueError, match=re.escape(expected)):
        fields(three)
    half = write(tmp_path / "a.tsv", "text\tclass\nyes\t1\n")  # one is named: a header
    with pytest.raises(ValueError, match=r"data\.label: found 'label', expected one of the fields of .*: text, class$"):
        fields(half)
    some = write(tmp_path / "a.jsonl", as_jsonl([{"text": "a", "label": "b"}, {"text": "a", "lable": "b"}]))
    with pytest.raises(ValueError, match=r"data\.label: found 'label', expected .*a\.jsonl, line 2: text, lable$"):
        fields(some)


def test_a_parquet_file_without_the_column_is_refused_before_its_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([{"text": "a", "class": 1}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"data\.label: found 'label', expected one of the columns of .*: text, class"):
        fields(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"data: found a damaged file, .*b\.parquet \("):
        fields(tmp_path / "b.parquet")


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxgpt.data.tables.find_spec", lambda name: None)
    expected = r"data\.path: found '.*a\.parquet', expected pyarrow, to read it: pip install 'jaxgpt\[parquet\]'"
    with pytest.raises(ValueError, match=expected):
        fields(write(tmp_path / "a.parquet", b""))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nyes,1\nno\n", "data: columns in {file}, line 3: found 1, expected 2: text, label"),
        ("a.tsv", "text\tlabel\na\tb\tc\n", "data: columns in {file}, line 2: found 3, expected 2: text, label"),
        ("a.tsv", "ham\tyes\nham\tno\textra\n", "data: columns in {file}, line 2: found 3, expected 2: label, text"),
        ("a.csv", "", "data: found '{file}', expected a file with some rows"),
        ("a.csv", b"text,label\nyes,1\n\xff,2\n", "data: found a byte that is not UTF-8 text in {file}, line 3"),
        ("a.jsonl", b'{"text": "\xff"}\n', "data: found a byte that is not UTF-8 text in {file}, line 1"),
        ("a.json", '[{"text": "a"', "data: found bad JSON in {file}: "),
        ("a.json", '{"text": "a"}', "data: {file}: found 'a JSON dict', expected a list of objects"),
        ("a.json", '[{"text": "a", "label": "b"}, 3]', "data: {file}, record 1: found 'a JSON int', expected an obj"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"te', "data: found bad JSON in {file}, line 2: "),
        ("a.jsonl", "[1]\n", 'data: found a JSON list in {file}, line 1, expected an object with "fields"'),
    ],
)
def test_a_broken_file_is_refused_by_its_place(tmp_path, name, content, message):
    file = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=re.escape(message.format(file=file))):
        fields(file, log=lambda line: None)


def test_a_broken_gzip_file_is_named(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text,label\n" * 99)[:-9])
    with pytest.raises(ValueError, match=r"data: found a damaged gzip file, .*a\.csv\.gz"):
        fields(tmp_path / "a.csv.gz")


def test_a_name_must_be_that_of_a_file_of_a_known_form(tmp_path):
    for name in ("a.csv", "a.TSV", "a.jsonl.gz", "a.json", "a.parquet"):
        assert table_file(str(write(tmp_path / name, ""))) == tmp_path / name
    endings = ".csv, .tsv, .jsonl, .json, .parquet"
    with pytest.raises(FileNotFoundError, match=f"data.validation_path: found nowhere.csv, no such file, .* {endings}"):
        table_file("nowhere.csv", "data.validation_path")
    with pytest.raises(FileNotFoundError, match=r"data\.path: found .*, no such file"):
        table_file(str(tmp_path))
    for name in ("a.txt", "a", "a.gz", "csv"):
        with pytest.raises(ValueError, match=f"data.path: found '.*{name}', expected a name in {endings}, or"):
            table_file(str(write(tmp_path / name, "")))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "there: text: found None, expected a text"),
        (3, "there: text: found 3, expected a text"),
        ("\ud800", "there: text: found text that UTF-8 cannot hold"),
    ],
)
def test_a_text_is_one_that_can_be_written(found, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        field_text(Record("there", {"text": found}), "text")
