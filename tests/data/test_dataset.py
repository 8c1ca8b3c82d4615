import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxgpt import tokenizers
from jaxgpt.data import DataConfig, cache, dataset, prepare, sources

TEXT = "".join(f"{i}: the quick brown fox jumps over the lazy dog, naïvely.\n" for i in range(200))


@pytest.fixture
def log():
    return []


@pytest.fixture
def build(tmp_path, log):
    """prepare() of a file with TEXT in it, with changes to its config."""
    (tmp_path / "input.txt").write_text(TEXT)

    def build(**changes):
        config = DataConfig(**{"path": str(tmp_path / "input.txt"), "tokenizer": "char"} | changes)
        return prepare(config, tmp_path / "cache", log.append)

    return build


def test_the_parts_are_the_text(build):
    data = build()
    cut = int(len(TEXT) * 0.9)
    assert data.tokenizer.decode(data.train) == TEXT[:cut]
    assert data.tokenizer.decode(data.validation) == TEXT[cut:]
    assert (data.train_bytes, data.validation_bytes) == (len(TEXT[:cut].encode()), len(TEXT[cut:].encode()))


def test_the_second_time_it_is_only_opened(build, log, monkeypatch):
    first = build()
    assert len(log) == 2
    assert "train.json is not there yet" in log[0]
    monkeypatch.setattr(dataset, "_build", None)
    again = build()
    assert len(log) == 2
    np.testing.assert_array_equal(first.train, again.train)
    assert isinstance(again.train, np.memmap)
    assert again.tokenizer.decode(again.validation) == first.tokenizer.decode(first.validation)
    assert (again.train_bytes, again.validation_bytes) == (first.train_bytes, first.validation_bytes)


def append(path):
    path.write_text(TEXT + "more")


def touch(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize("change", [append, touch])
def test_changed_text_is_prepared_again(build, log, tmp_path, change):
    build()
    change(tmp_path / "input.txt")
    data = build()
    assert "(the text changed)" in log[2]
    text = (tmp_path / "input.txt").read_text()
    assert data.tokenizer.decode([*data.train, *data.validation]) == text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokenizer": "word"}, "data.tokenizer changed"),
        ({"tokenizer": "bpe", "vocab_size": 300}, "data.tokenizer changed"),
        ({"validation_fraction": 0.2}, "the held-out text changed"),
    ],
)
def test_a_changed_setting_is_prepared_again(build, log, changes, reason):
    before = build()
    after = build(**changes)
    assert reason in log[2]
    assert len(before.train) != len(after.train)


def damage_shard(cache):
    content = (cache / "train.bin").read_bytes()
    (cache / "train.bin").write_bytes(content[: len(content) // 2])


def change_tokenizer(cache):
    (cache / "tokenizer" / "jaxgpt_tokenizer.json").write_text(json.dumps({"kind": "char", "characters": "ab"}))


def lose_tokenizer(cache):
    (cache / "tokenizer" / "jaxgpt_tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_shard, "train.bin has"),
        (change_tokenizer, "the saved tokenizer changed"),
        (lose_tokenizer, "the saved tokenizer changed"),
    ],
)
def test_a_damaged_cache_is_prepared_again(build, log, tmp_path, damage, reason):
    first = build().train.tolist()
    damage(tmp_path / "cache")
    assert build().train.tolist() == first
    assert reason in log[2]


def test_documents_are_divided_by_end_of_text(tmp_path, monkeypatch):
    """Between documents, not inside one that comes in pieces, nor around them."""
    monkeypatch.setattr(sources, "PIECE", 1000)
    texts = [f"document {i} é. " * (i + 1) for i in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = DataConfig(path=str(tmp_path / "a.jsonl"), tokenizer="bpe", vocab_size=300)
    data = prepare(config, tmp_path / "cache", lambda line: None)
    held_out = texts[9::10]
    kept = [text for text in texts if text not in held_out]
    assert data.tokenizer.decode(data.train) == "<|endoftext|>".join(kept)
    assert data.tokenizer.decode(data.validation) == "<|endoftext|>".join(held_out)
    assert data.train_bytes == len("".join(kept).encode())


def test_pieces_and_batches_leave_no_trace(build, monkeypatch):
    whole = build(tokenizer="bpe", vocab_size=300)
    monkeypatch.setattr(sources, "PIECE", 200)
    monkeypatch.setattr(cache, "BATCH", 500)
    cut = build(tokenizer="bpe", vocab_size=299)
    cut = build(tokenizer="bpe", vocab_size=300)
    np.testing.assert_array_equal(whole.train, cut.train)
    np.testing.assert_array_equal(whole.validation, cut.validation)


def test_an_explicit_validation_text(build, tmp_path):
    (tmp_path / "val.txt.gz").write_bytes(gzip.compress("a dog with ß".encode()))
    data = build(validation_path=str(tmp_path / "val.txt.gz"))
    assert data.tokenizer.decode(data.train) == TEXT
    assert data.tokenizer.decode(data.validation) == "a dog with ß"


def test_a_trained_tokenizer_sees_the_training_part_only(build, tmp_path):
    (tmp_path / "val.txt").write_text("zyzzyva " * 500)
    alone = build(tokenizer="bpe", vocab_size=300)
    (tmp_path / "cache" / "train.bin").unlink()
    train_only = build(tokenizer="bpe", vocab_size=300, validation_path=str(tmp_path / "val.txt"))
    assert len(train_only.tokenizer.encode("zyzzyva")) >= 6
    assert len(alone.tokenizer.encode("quick")) < 5


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"path": "/nowhere/x.txt"}, FileNotFoundError, "^data.path: found /nowhere/x.txt, no such file or folder$"),
        ({"validation_path": "/nowhere"}, FileNotFoundError, "^data.validation_path: found /nowhere, no such"),
        ({"tokenizer": "json:/nowhere"}, FileNotFoundError, "^data.tokenizer: found /nowhere, no such"),
        ({"tokenizer": "byte"}, ValueError, "byte"),
        ({"validation_fraction": 1 - 1e-9}, ValueError, "found too little text for a train part"),
    ],
)
def test_what_cannot_be_prepared_is_refused(build, tmp_path, changes, error, expected):
    with pytest.raises(error, match=expected):
        build(**changes)
    assert not (tmp_path / "cache" / "train.json").exists()


def test_bad_validation_text_is_refused_before_anything_is_written(build, tmp_path, monkeypatch):
    ready = tokenizers.CharTokenizer.train(TEXT)
    monkeypatch.setattr(tokenizers, "create", lambda *_: ready)  # reads no text: nothing else would find the mistake
    (tmp_path / "val.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"val\.jsonl, line 1"):
        build(validation_path=str(tmp_path / "val.jsonl"))
    assert not (tmp_path / "cache").exists()


def test_ids_outside_the_vocabulary_are_refused(build, monkeypatch):
    monkeypatch.setattr("jaxgpt.tokenizers.CharTokenizer.vocab_size", 20)
    with pytest.raises(ValueError, match=r"data\.tokenizer: found token id .*, expected 0 to 19"):
        build()


def test_tiny_shakespeare_has_nanogpts_counts(shared_data, tmp_path, log):
    config = DataConfig(path=str(shared_data / "tinyshakespeare" / "input.txt"), tokenizer="char")
    data = prepare(config, tmp_path, log.append)
    assert (len(data.train), len(data.validation)) == (1_003_854, 111_540)
    assert (data.tokenizer.vocab_size, data.train.dtype) == (65, np.uint16)
    assert log[-1] == "data: 1,003,854 training and 111,540 validation tokens"


def test_tiny_shakespeare_has_nanogpts_gpt2_counts(shared_data, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken_cache"))
    config = DataConfig(path=str(shared_data / "tinyshakespeare" / "input.txt"), tokenizer="tiktoken:gpt2")
    data = prepare(config, tmp_path, lambda line: None)
    assert (len(data.train), len(data.validation)) == (301_966, 36_059)


def test_the_default_is_the_built_in_corpus(tmp_path, log):
    data = prepare(DataConfig(), tmp_path, log.append)
    assert data.tokenizer.vocab_size == 1024
    assert 0.08 < len(data.validation) / (len(data.train) + len(data.validation)) < 0.12
    assert data.train_bytes / len(data.train) > 2
    assert "def " in data.tokenizer.decode(data.validation[:2000])


def test_importing_needs_neither_jax_nor_grain():
    code = "import sys, jaxgpt.data; sys.exit(any(name in sys.modules for name in ('jax', 'grain')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
