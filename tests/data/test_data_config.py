import re
from dataclasses import replace

import pytest
from tiny import unchecked

from jaxgpt.data import DataConfig, check


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("path", "", "data.path: found '', expected a file, a folder, a glob or 'python'"),
        ("path", None, "data.path: found None, expected a string"),
        ("validation_fraction", "0.1", "data.validation_fraction: found '0.1', expected a number"),
        ("vocab_size", 300.0, "data.vocab_size: found 300.0, expected an integer"),
        ("vocab_size", 100, "data.vocab_size: found 100, expected at least 257, every byte and end-of-text, for a bpe"),
        ("sampling", "epoch", "data.sampling: found 'epoch', expected one of random, epochs"),
        ("validation_fraction", 1.5, "data.validation_fraction: found 1.5, expected a number in (0, 1)"),
        ("validation_fraction", 0.0, "data.validation_fraction: found 0.0, expected a number in (0, 1)"),
        ("validation_fraction", float("nan"), "data.validation_fraction: found nan"),
        ("vocab_size", 0, "data.vocab_size: found 0, expected a positive integer"),
        ("stride", 0, "data.stride: found 0, expected a positive integer or None"),
        ("source", "", "data.source: found '', expected a file's ending or a .jsonl's field"),
        ("target", "", "data.target: found '', expected a file's ending or a .jsonl's field"),
        ("target", "source", "data.target: found 'source', expected another than data.source='source'"),
        ("run_length", 0, "data.run_length: found 0, expected a positive integer"),
        ("buckets", 0, "data.buckets: found 0, expected a positive integer"),
        ("mask_rate", 0.0, "data.mask_rate: found 0.0, expected a number in (0, 1)"),
        ("mask_rate", 1.0, "data.mask_rate: found 1.0, expected a number in (0, 1)"),
        ("whole_word", 1, "data.whole_word: found 1, expected True or False"),
    ],
)
def test_a_wrong_value_is_refused(field, value, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        unchecked(DataConfig(), **{field: value})


def test_a_config_is_a_value():
    assert hash(DataConfig(path="a", stride=3)) == hash(DataConfig(path="a", stride=3))
    assert DataConfig(path="a") != DataConfig(path="b")


def test_a_small_vocabulary_is_refused_where_a_bpe_is_trained_only():
    assert DataConfig(vocab_size=257).tokenizer == "bpe"
    assert DataConfig(tokenizer="char", vocab_size=100).vocab_size == 100


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("tokenizer", "byte", "data.tokenizer: found 'byte', expected one of char, word, bpe"),
        ("tokenizer", "tiktoken:gpt5", "data.tokenizer: found 'tiktoken:gpt5', expected one of"),
        ("tokenizer", "saved:nowhere", "data.tokenizer: found 'saved:nowhere', expected a folder with a jaxgpt_token"),
        ("tokenizer", "json:nowhere", "data.tokenizer: found 'json:nowhere', expected a folder with a tokenizer.json"),
        ("path", "nowhere.txt", "data.path: found nowhere.txt, no such file or folder"),
        ("path", "empty.txt", "data.path: found no text in empty.txt"),
        ("validation_path", "nowhere", "data.validation_path: found nowhere, no such file or folder"),
        ("validation_path", "binary", "data.validation_path: found the binary file binary, expected UTF-8 text"),
        ("validation_path", "empty.txt", "data.validation_path: found no text in empty.txt"),
    ],
)
def test_what_a_config_names_is_looked_for_and_nothing_touched(tmp_path, monkeypatch, field, value, expected):
    monkeypatch.chdir(tmp_path)
    for name, content in {"text.txt": b"text", "empty.txt": b"", "binary": b"a\0b"}.items():
        (tmp_path / name).write_bytes(content)
    good = DataConfig(path="text.txt", validation_path="text.txt")
    check(good)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(expected)):
        check(replace(good, **{field: value}))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["binary", "empty.txt", "text.txt"]
