import json
import re
import subprocess
import sys

import pytest

from jaxgpt import tokenizers
from jaxgpt.tokenizers import BPETokenizer, CharTokenizer, JSONTokenizer, WordTokenizer


def texts():
    yield from ["the cat", " sat, the cat"]


def test_create_trains_by_name():
    assert isinstance(tokenizers.create("char", texts, 300), CharTokenizer)
    assert tokenizers.create("word", texts, 300).words == [",", "cat", "sat", "the"]
    bpe = tokenizers.create("bpe", texts, 260)
    assert isinstance(bpe, BPETokenizer)
    assert bpe.vocab_size == 260


def test_create_finds_what_is_trained_already(shared_data, monkeypatch):
    def no_texts():
        raise AssertionError("nothing is to be trained")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken_cache"))
    assert tokenizers.create("tiktoken:gpt2", no_texts, 300).vocab_size == 50257
    for path in (shared_data / "stories260K", shared_data / "stories260K/tokenizer.json"):
        tokenizer = tokenizers.create(f"json:{path}", no_texts, 300)
        assert isinstance(tokenizer, JSONTokenizer)
        assert (tokenizer.vocab_size, tokenizer.end_of_text) == (512, 2)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("bep", "bpe"), ("chars", "char"), ("words:", "word"), ("tiktokn:gpt2", "tiktoken:gpt2"), ("bpe:", "bpe")],
)
def test_a_bad_name_is_answered_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match=rf"tokenizer: found '{name}', expected one of char, .*\(nearest: {hint}\)"):
        tokenizers.create(name, texts, 300)


def test_a_bad_encoding_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"found 'tiktoken:cl10k_base', .*\(nearest: tiktoken:cl100k_base\)"):
        tokenizers.create("tiktoken:cl10k_base", texts, 300)


def test_a_missing_tokenizer_json_is_named(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    for name in (f"json:{tmp_path}/nowhere", f"json:{tmp_path}", f"saved:{tmp_path}"):
        with pytest.raises(
            FileNotFoundError, match=rf"^tokenizer: found '{name}', expected a folder with a .*tokenizer"
        ):
            tokenizers.create(name, texts, 300)


def test_load_names_what_it_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"expected a jaxgpt_tokenizer\.json or a tokenizer\.json or a source\.spm or a vocab"
    ):
        tokenizers.load(tmp_path)


def test_load_refuses_an_unknown_kind(tmp_path):
    (tmp_path / "jaxgpt_tokenizer.json").write_text(json.dumps({"kind": "bp"}))
    with pytest.raises(ValueError, match=r"jaxgpt_tokenizer\.json: kind: found 'bp', expected .*\(nearest: bpe\)"):
        tokenizers.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("jaxgpt_tokenizer.json", "", "found bad JSON (Expecting value: line 1 column 1 (char 0)), expected an object"),
        ("jaxgpt_tokenizer.json", "[]", "found a JSON list, expected an object"),
        ("jaxgpt_tokenizer.json", '{"kind": "char"}', "found no 'characters', expected the state of a char tokenizer"),
        ("tokenizer.json", "{", "EOF while parsing"),
    ],
)
def test_load_names_the_file_that_is_broken(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*{re.escape(name)}: {re.escape(expected)}"):
        tokenizers.load(tmp_path)


def test_saving_again_replaces(tmp_path):
    WordTokenizer.train(texts()).save(tmp_path)
    CharTokenizer.train(texts()).save(tmp_path)
    assert isinstance(tokenizers.load(tmp_path), CharTokenizer)
    files = {"jaxgpt_tokenizer.json", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in tmp_path.iterdir()} == files
    (tmp_path / "chat_template.jinja").write_text("another's")
    CharTokenizer("a\ud800").save(tmp_path)  # no tokenizer.json can say this one
    assert [file.name for file in tmp_path.iterdir()] == ["jaxgpt_tokenizer.json"]


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "merges.txt"])
def test_load_says_how_to_make_what_it_reads(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=rf"found '{name} alone', expected a tokenizer\.json: transformers'"):
        tokenizers.load(tmp_path)


def test_importing_loads_neither_jax_nor_the_optional_libraries():
    code = """
import sys
from jaxgpt import tokenizers
tokenizers.CharTokenizer.train("abc").encode("cab")
print(sorted({"jax", "tokenizers", "rustbpe", "requests", "jinja2", "sentencepiece"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
