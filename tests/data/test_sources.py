import gzip
import json
import re
import sysconfig
from itertools import chain, groupby
from pathlib import Path

import pytest

from jaxgpt import tokenizers
from jaxgpt.data import sources
from jaxgpt.data.sources import files, pieces


def documents(path):
    """Each document of path, whole."""
    grouped = groupby(pieces(files(str(path))), key=lambda piece: piece[0])
    numbers, texts = zip(*((number, "".join(text for _, text in group)) for number, group in grouped), strict=True)
    assert numbers == tuple(range(len(texts)))
    return list(texts)


def jsonl(*texts):
    return "\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)).encode()


def test_a_text_file_is_one_document(tmp_path):
    text = "first\r\n\nsecond é 日本語 🇺🇳"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert documents(tmp_path / "a.txt") == [text]


def test_each_jsonl_line_is_a_document(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl("one\ntwo", "", "three") + b"\n\n")
    assert documents(tmp_path / "a.jsonl") == ["one\ntwo", "three"]


def test_only_the_end_of_a_name_says_jsonl(tmp_path):
    (tmp_path / "a.jsonl.txt").write_text('{"text": "one"}')
    assert documents(tmp_path / "a.jsonl.txt") == ['{"text": "one"}']


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"one\ntwo"), ("a.jsonl", jsonl("one", "two"))])
def test_gz_is_the_same_unpacked(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert documents(tmp_path / f"{name}.gz") == documents(tmp_path / name)


@pytest.fixture
def tree(tmp_path):
    for name, content in {
        "b.txt": b"B",
        "a/z.md": b"Z",
        "a/b.jsonl": jsonl("J1", "J2"),
        "c.txt.gz": gzip.compress(b"C", mtime=0),
        "d.png": b"\x89PNG\r\n\x1a\n\0\0",
        "e.txt": b"",
        ".git/HEAD": b"hidden",
        ".hidden.txt": b"hidden",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_folder_gives_its_text_files_in_order_and_nothing_hidden_or_binary(tree):
    assert documents(tree) == ["B", "C", "J1", "J2", "Z"]


def test_a_glob_gives_what_it_matches_in_order(tree):
    assert documents(tree / "*.txt*") == ["B", "C"]
    assert documents(tree / "**" / "*.md") == ["Z"]


def test_the_built_in_corpus_is_this_pythons_library():
    library = Path(sysconfig.get_path("stdlib"))
    found = files("python")
    assert found == files("python")
    names = [file.relative_to(library).as_posix() for file in found]
    assert {"json/decoder.py", "asyncio/tasks.py", "this.py"} <= set(names)
    assert not [name for name in names if not name.endswith(".py") or re.search(r"(^|/)(tests?|site-packages)/", name)]
    texts = [text for _, text in pieces(found)]
    assert sum(map(len, texts)) > 4_000_000
    assert "import " in texts[0] + texts[1]
    assert not any("\0" in text for text in texts)


def test_a_long_text_comes_in_pieces_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", 50)
    text = "".join(f"line {i}: naïve\n" for i in range(100))
    for name, content in {"a.txt": text.encode(), "a.jsonl": jsonl(text)}.items():
        (tmp_path / name).write_bytes(content)
        found = [piece for _, piece in pieces([tmp_path / name])]
        assert "".join(found) == text
        assert len(found) > 20
        assert all(len(piece) <= 100 and piece.endswith("\n") for piece in found)


@pytest.mark.parametrize(
    "text", ["🇺🇳é" * 200, "word " * 200, "\n" * 500, " " * 500], ids=["no", "words", "lines", "spaces"]
)
def test_a_text_without_lines_comes_in_pieces_too(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sources, "PIECE", 50)
    (tmp_path / "a.txt").write_text(text)
    found = [piece for _, piece in pieces([tmp_path / "a.txt"])]
    assert "".join(found) == text
    assert len(found) >= 5
    assert all(len(piece) <= 100 for piece in found)


def test_cutting_changes_no_token(monkeypatch):
    """The pieces encode, one by one, to what the whole text does."""
    text = Path(json.__file__).with_name("decoder.py").read_text() + "a  b\n\n\n  c\t\n d. \n\n e f" * 200
    bpe = tokenizers.create("bpe", lambda: [text], 500)
    monkeypatch.setattr(sources, "PIECE", 100)
    found = list(sources._cut(text[at : at + 100] for at in range(0, len(text), 100)))
    assert len(found) > 50
    assert list(chain.from_iterable(bpe.encode_batch(found))) == bpe.encode(text)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.txt", b"", "data.path: found no text in {path}, expected"),
        ("blank.jsonl", b"\n\n", "data: found only empty documents, from {path} on"),
        ("nul.txt", b"abc\0def", "data.path: found the binary file {path}, expected UTF-8 text"),
        (
            "latin.txt",
            "é caf".encode() + b"\xe9 x",
            "data: found a byte that is not UTF-8 text in {path}, at offset 6, expected UTF-8 text",
        ),
        (
            "late.txt",
            "aé".encode() * 999 + b"\0",
            "data: found a byte that is not UTF-8 text in {path}, at offset 2997, expected UTF-8 text",
        ),
        (
            "late.txt",
            "aé".encode() * 99 + b"\xff",
            "data: found a byte that is not UTF-8 text in {path}, at offset 297, expected UTF-8 text",
        ),
        (
            "cut.txt",
            "aé".encode()[:-1],
            "data: found a byte that is not UTF-8 text in {path}, at offset 1, expected UTF-8 text",
        ),
        ("cut.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], "data: found a damaged gzip file, {path}"),
        ("not.txt.gz", b"abc", "data: found a damaged gzip file, {path}"),
        ("a.jsonl", jsonl("ok") + b"\n{oops", "data: found bad JSON in {path}, line 2"),
        ("b.jsonl", b'{"text": "\xff"}', "data: found bad JSON in {path}, line 1"),
        (
            "c.jsonl",
            b'\n{"body": 1, "a": 2}',
            "data: found keys ['a', 'body'] in {path}, line 2, expected \"text\"",
        ),
        ("d.jsonl", b"[1]", "data: found a JSON list in {path}, line 1"),
        ("e.jsonl", b'{"text": 3}', 'data: found "text" of type int in {path}, line 1'),
        ("f.jsonl", b'{"text": "\\ud800"}', 'data: found "text" that UTF-8 cannot hold in {path}, line 1'),
    ],
)
def test_what_is_not_text_is_named(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.setattr(sources, "PIECE", 64)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(expected.format(path=path))):
        list(pieces(files(str(path))))


def test_a_missing_file_is_named_with_its_setting(tmp_path):
    expected = f"data.validation_path: found {tmp_path}/none*, no such file or folder"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        files(f"{tmp_path}/none*", "data.validation_path")


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"data.path: found no text in {tmp_path}")):
        files(str(tmp_path))
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(
        ValueError, match=re.escape(f"data.path: found only binary files in {tmp_path}, expected UTF-8")
    ):
        files(str(tmp_path))
    (tmp_path / "b.txt").write_bytes(b"text")
    assert files(str(tmp_path)) == [tmp_path / "b.txt"]


def test_a_binary_file_that_a_glob_names_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.bin").write_bytes("text".encode("utf-16"))
    expected = f"data.validation_path: found the binary file {tmp_path}/b.bin, expected UTF-8 text"
    with pytest.raises(ValueError, match=re.escape(expected)):
        files(f"{tmp_path}/*", "data.validation_path")
