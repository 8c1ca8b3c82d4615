import json
import os

import numpy as np
import pytest

from jaxgpt.data.shards import ShardWriter, StaleError, read_shard

PRINT = {"the text": [["a.txt", 3, 5]], "fraction": 0.1}


def write(path, tokens=((1, 2, 3), (), (4, 5)), vocab_size=300, fingerprint=PRINT):
    with ShardWriter(path, vocab_size, fingerprint) as shard:
        for ids in tokens:
            shard.append(list(ids), 7)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(300, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_what_is_written_is_read(tmp_path, vocab_size, dtype):
    write(tmp_path / "train", [(0, vocab_size - 1), (5,)], vocab_size)
    tokens, header = read_shard(tmp_path / "train", PRINT)
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == dtype
    assert tokens.tolist() == [0, vocab_size - 1, 5]
    assert (header.tokens, header.vocab_size, header.text_bytes) == (3, vocab_size, 14)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_a_name_may_hold_dots(tmp_path):
    for name, tokens in {"train.source": [1, 2], "train.target": [3]}.items():
        write(tmp_path / name, [tokens])
    assert read_shard(tmp_path / "train.source", PRINT)[0].tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.glob("*.bin")) == ["train.source.bin", "train.target.bin"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def reformat(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("train.bin", lambda path: path.unlink(), "train.bin is not there yet"),
        ("train.json", lambda path: path.unlink(), "train.json is not there yet"),
        ("train.bin", lambda path: path.write_bytes(path.read_bytes()[:-1]), "train.bin has 9 bytes, expected 10"),
        ("train.bin", flip, "train.bin is corrupted"),
        ("train.json", lambda path: path.write_text(path.read_text()[:-9]), "train.json is not a shard header"),
        ("train.json", lambda path: path.write_text("{}"), "train.json is not a shard header"),
        ("train.json", reformat, "train.json has format 0"),
    ],
)
def test_a_damaged_shard_is_noticed(tmp_path, name, damage, reason):
    write(tmp_path / "train")
    read_shard(tmp_path / "train", PRINT)
    damage(tmp_path / name)
    with pytest.raises(StaleError, match=reason):
        read_shard(tmp_path / "train", PRINT)


def test_a_shard_of_something_else_is_stale_and_says_what(tmp_path):
    write(tmp_path / "train")
    with pytest.raises(StaleError, match=r"^fraction, more changed$"):
        read_shard(tmp_path / "train", PRINT | {"fraction": 0.2, "more": 1})


def test_an_interrupted_writer_leaves_the_old_shard(tmp_path):
    write(tmp_path / "train")

    def tokens():
        yield [9]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "train", tokens())
    assert read_shard(tmp_path / "train", PRINT)[0].tolist() == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_a_writer_killed_at_any_point_leaves_no_wrong_shard(tmp_path):
    write(tmp_path / "new", [(6, 7)], fingerprint={})
    write(tmp_path / "train")
    (tmp_path / "train.bin.1.tmp").write_bytes(b"half")  # process 1, killed while it wrote
    assert read_shard(tmp_path / "train", PRINT)[0].tolist() == [1, 2, 3, 4, 5]
    (tmp_path / "new.bin").replace(tmp_path / "train.bin")  # killed between the two renames
    with pytest.raises(StaleError):
        read_shard(tmp_path / "train", PRINT)
    write(tmp_path / "train", [(8,)])
    assert read_shard(tmp_path / "train", PRINT)[0].tolist() == [8]


def test_two_processes_may_write_one_shard(tmp_path, monkeypatch):
    with ShardWriter(tmp_path / "train", 300, PRINT) as shard:
        shard.append([1, 2], 2)
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 1)
            write(tmp_path / "train", [(3,)])
            assert read_shard(tmp_path / "train", PRINT)[0].tolist() == [3]
    assert read_shard(tmp_path / "train", PRINT)[0].tolist() == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.bin", "train.json"]


def test_a_mapped_shard_outlives_its_replacement(tmp_path):
    write(tmp_path / "train")
    before, _ = read_shard(tmp_path / "train", PRINT)
    write(tmp_path / "train", [(8,)])
    assert before.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("token", [300, -1])
def test_an_id_outside_the_vocabulary_is_refused(tmp_path, token):
    with pytest.raises(ValueError, match=f"data.tokenizer: found token id {token}, expected 0 to 299"):
        write(tmp_path / "train", [(1,), (2, token)])
    assert not list(tmp_path.iterdir())


def test_an_empty_shard_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data: found too little text for a validation part"):
        write(tmp_path / "validation", [()])
    assert not list(tmp_path.iterdir())
