import gzip
import json
import re

import pytest

from jaxgpt.data import DataConfig
from jaxgpt.data.pair_files import count_pairs, pair_files, read_pairs

PAIRS = [("Guten Tag", "Good day"), ("Zwei\u2028Zeilen", "two  lines"), ("Das ist ß.", "That is ß.")]
FORMS = {
    "tsv": "".join(f" {source} \t {target} \n" for source, target in PAIRS),
    "jsonl": "".join(json.dumps({"id": i, "de": de, "en": en}) + "\n\n" for i, (de, en) in enumerate(PAIRS)),
    "nested.jsonl": "\n".join(json.dumps({"translation": {"de": de, "en": en}}) for de, en in PAIRS),
    "de": "".join(f"{de} \n" for de, _ in PAIRS),
    "en": "\r\n".join(en for _, en in PAIRS),
}


def config(path, **changes):
    return DataConfig(**{"path": str(path), "source": "de", "target": "en"} | changes)


def pairs(path):
    return [(source, target) for _, source, target in read_pairs(pair_files(config(path))[0])]


@pytest.fixture(params=["", ".gz"])
def folder(request, tmp_path):
    """train in every form, packed or not."""
    for ending, text in FORMS.items():
        content = gzip.compress(text.encode()) if request.param else text.encode()
        (tmp_path / f"train.{ending}{request.param}").write_bytes(content)
    return tmp_path


def test_every_form_gives_the_same_pairs(folder):
    for name in ["train.tsv", "train.jsonl", "train.nested.jsonl", "train.de", "train.en"]:
        file = next(folder.glob(f"{name}*"))
        assert pairs(file) == PAIRS, name
    assert pairs(folder / "train") == pairs(folder) == PAIRS
    for name in folder.glob("train.[de][en]*"):
        name.unlink()
    assert pairs(folder) == PAIRS  # the .tsv


def test_source_and_target_change_places(folder):
    files, _ = pair_files(config(folder, source="en", target="de"))
    assert [(target, source) for _, source, target in read_pairs(files)] == PAIRS


def test_pairs_know_their_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(FORMS["jsonl"])
    assert [pair.line for pair in read_pairs(pair_files(config(tmp_path / "a.jsonl"))[0])] == [1, 3, 5]


@pytest.mark.parametrize("name", ["val", "valid", "dev"])
def test_a_folder_has_its_own_validation_pairs(folder, name):
    assert pair_files(config(folder))[1] is None
    for language in ("de", "en"):
        (folder / f"{name}.{language}").write_text("eins\n")
    assert pair_files(config(folder))[1].paths == [folder / f"{name}.de", folder / f"{name}.en"]
    assert pair_files(config(folder / "train"))[1] is None
    (folder / "own.tsv").write_text("a\tb\n")
    chosen = pair_files(config(folder, validation_path=str(folder / "own.tsv")))[1]
    assert chosen.paths == [folder / "own.tsv"]
    assert pair_files(config(folder / "train", validation_path=str(folder)))[1].paths[0] == folder / f"{name}.de"


def write(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        ({}, "none", "data.path: found no pairs at {tmp}/none, expected {tmp}/none with .de and .en (data.source and"),
        ({"a.fr": ""}, "a", "each perhaps with .gz; there is a.fr"),
        ({"text.txt": "", "a.de": ""}, ".", "expected {tmp}/train with .de and .en (data.source and data.target), or"),
        (
            {"a.de": "x"},
            "a",
            "data.path: found {tmp}/a.de without the other language, expected {tmp}/a.en or {tmp}/a.en.gz too",
        ),
        ({"a.en.gz": "x"}, "a.en.gz", "found {tmp}/a.en.gz without the other language, expected {tmp}/a.de or"),
    ],
)
def test_files_that_are_not_there_are_named(tmp_path, files, path, expected):
    write(tmp_path, files)
    with pytest.raises(FileNotFoundError, match=re.escape(expected.format(tmp=tmp_path))):
        pair_files(config(tmp_path / path))


def test_validation_files_that_are_not_there_are_named_with_their_setting(folder):
    expected = f"data.validation_path: found no pairs at {folder}, expected {folder}/val or {folder}/valid or"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        pair_files(config(folder, validation_path=str(folder)))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a\tb")
    expected = f"data.path: found the file {tmp_path}/a.txt, expected its name to end in .de, .en, .tsv or .jsonl"
    with pytest.raises(ValueError, match=re.escape(expected)):
        pair_files(config(tmp_path / "a.txt"))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"train.de": "a\nb\nc\n", "train.en": "a\nb\n"},
            "data: found 3 in {tmp}/train.de and 2 in {tmp}/train.en, expected as many lines in both",
        ),
        (
            {"train.de": "a\n", "train.en": "a\nb\nc\n\n"},
            "data: found 1 in {tmp}/train.de and 4 in {tmp}/train.en, expected as many lines in both",
        ),
        (
            {"train.de": "a\n\nc\n", "train.en": "a\nb\n \n"},
            "data: found an empty source in {tmp}/train.de, line 2, expected some text",
        ),
        (
            {"train.de": "a\n" * 9, "train.en": "a\n" + "\t\n" * 7 + "a"},
            "data: found an empty target in {tmp}/train.en, lines 2, 3, 4, 5, 6 and 2 more, expected some text",
        ),
        ({"train.tsv": "a\tb\na\t\n"}, "data: found an empty target in {tmp}/train.tsv, line 2, expected some text"),
        (
            {"train.tsv": "a\tb\nab\n"},
            "data: found 1 columns in {tmp}/train.tsv, line 2, expected 2: source TAB target",
        ),
        ({"train.tsv": "a\tb\tc\n"}, "data: found 3 columns in {tmp}/train.tsv, line 1, expected 2"),
        ({"train.tsv": "a\tb\n\n"}, "data: found 1 columns in {tmp}/train.tsv, line 2, expected 2"),
        (
            {"train.jsonl": '{"de": "a", "en": "b"}\n\n{"de": "a", "fr": "b"}'},
            "data: found keys ['de', 'fr'] in {tmp}/train.jsonl, line 3, expected \"en\"",
        ),
        (
            {"train.jsonl": '{"translation": {"fr": "a"}}'},
            "data: found keys ['fr'] in {tmp}/train.jsonl, line 1, expected \"de\"",
        ),
        ({"train.jsonl": '{"de": 3, "en": "b"}'}, 'data: found "de" of type int in {tmp}/train.jsonl, line 1'),
        ({"train.jsonl": "[]"}, "data: found a JSON list in {tmp}/train.jsonl, line 1"),
        ({"train.jsonl": "\n"}, "data: found no pairs in {tmp}/train.jsonl, expected one or more"),
        ({"train.tsv": ""}, "data: found no pairs in {tmp}/train.tsv, expected one or more"),
        (
            {"train.de": b"a\n\xe9\n", "train.en": "a\nb"},
            "data: found a byte that is not UTF-8 text in {tmp}/train.de, line 2, expected UTF-8 text",
        ),
        ({"train.tsv": b"a\tb\0\n"}, "data: found a byte that is not UTF-8 text in {tmp}/train.tsv, line 1"),
        (
            {"train.tsv.gz": gzip.compress(b"abc\td\n" * 999)[:-9]},
            "data: found a damaged gzip file, {tmp}/train.tsv.gz",
        ),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, files, expected):
    write(tmp_path, files)
    with pytest.raises(ValueError, match=re.escape(expected.format(tmp=tmp_path))):
        count_pairs(pair_files(config(tmp_path))[0])


def test_pairs_are_counted(folder):
    assert count_pairs(pair_files(config(folder))[0]) == 3
