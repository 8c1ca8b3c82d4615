import json
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxgpt import tokenizers
from jaxgpt.data import DataConfig, pairs
from jaxgpt.data.pairs import check_lengths, check_pairs, prepare_pairs

PAIRS = [(f"Der Hund Nummer {i} läuft.", f"Dog number {i} runs" + " on" * (i % 7)) for i in range(200)]
END = "<|endoftext|>"


@pytest.fixture
def log():
    return []


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train", PAIRS)
    return tmp_path


def write(beginning, texts):
    for side, language in enumerate(("de", "en")):
        beginning.with_name(f"{beginning.name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in texts))


@pytest.fixture
def build(folder, log):
    """prepare_pairs() of the folder, with changes to its config."""
    config = DataConfig(path=str(folder), source="de", target="en", vocab_size=300)
    return lambda **changes: prepare_pairs(replace(config, **changes), folder / "cache", log.append)


def decoded(data, part):
    """The pairs of a part, as text, and that each side ends in end-of-text."""
    sides = []
    for sequences in (part.source, part.target):
        texts = [data.tokenizer.decode(sequences[i]) for i in range(len(sequences))]
        assert all(text.endswith(END) for text in texts)
        sides.append([text.removesuffix(END) for text in texts])
    return list(zip(*sides, strict=True))


def test_the_parts_are_the_pairs_in_order(build):
    data = build()
    assert decoded(data, data.train) == [pair for i, pair in enumerate(PAIRS) if i % 10 != 9]
    assert decoded(data, data.validation) == PAIRS[9::10]
    assert len(data.train) == 180
    assert data.validation.numbers.tolist() == list(range(9, 200, 10))
    assert isinstance(data.train.source.tokens, np.memmap)


def test_a_folder_validates_on_its_own_pairs(build, folder):
    write(folder / "dev", [("Eins", "One")])
    data = build()
    assert decoded(data, data.train) == PAIRS
    assert decoded(data, data.validation) == [("Eins", "One")]


def test_the_tokenizer_learns_from_both_sides_of_the_training_part(build, folder):
    write(folder / "val", [("Zyzzyva " * 99, "quokka " * 99)] * 50)
    tokenizer = build().tokenizer
    assert len(tokenizer.encode(" Hund")) < 4
    assert len(tokenizer.encode(" number")) < 5
    assert len(tokenizer.encode("zyzzyva")) > 5
    assert len(tokenizer.encode("quokka")) > 4


def test_the_second_time_it_is_only_opened(build, log, monkeypatch):
    first = build()
    assert [line.split(" (")[0].split(" of ")[0] for line in log[1:]] == [
        "data: 180 training pairs",
        "data: 20 validation pairs",
    ]
    assert "train.source.json is not there yet" in log[0]
    monkeypatch.setattr(pairs, "_build", None)
    again = build()
    assert len(log) == 3
    assert again.identity == first.identity
    assert decoded(again, again.train) == decoded(first, first.train)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": 290}, "data.tokenizer changed"),
        ({"validation_fraction": 0.2}, "the held-out pairs changed"),
        ({"source": "en", "target": "de"}, "the pairs changed"),
    ],
)
def test_a_changed_setting_is_prepared_again(build, log, changes, reason):
    before = build()
    after = build(**changes)
    assert reason in log[3]
    assert after.identity != before.identity


def test_other_fields_of_one_file_are_other_pairs(build, folder):
    rows = [json.dumps({"de": de, "en": en}) for de, en in PAIRS]
    (folder / "a.jsonl").write_text("\n".join(rows))
    path = str(folder / "a.jsonl")
    before, after = build(path=path), build(path=path, source="en", target="de")
    assert decoded(after, after.validation) == [(en, de) for de, en in decoded(before, before.validation)]


@pytest.mark.parametrize("name", ["train.target", "validation.source"])
def test_a_damaged_shard_is_built_again(build, log, folder, name):
    before = build()
    file = folder / "cache" / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:-2])
    assert build().identity == before.identity
    assert f"{name}.bin has" in log[3]


def test_changed_pairs_are_prepared_again(build, log, folder):
    before = build()
    write(folder / "train", [*PAIRS[:-1], ("Ende", "End")])
    assert build().identity != before.identity
    assert "the pairs changed" in log[3]


def test_batches_leave_no_trace(build, monkeypatch):
    whole = build()
    monkeypatch.setattr("jaxgpt.data.cache.BATCH", 100)
    build(vocab_size=290)
    assert build().identity == whole.identity


def test_too_long_a_sequence_is_named(build, folder):
    long = ("eins " * 30, "one")
    write(folder / "dev", [("a", "b"), ("a", "b"), long])
    data = build()
    longest = int(max(data.train.target.lengths.max(), data.train.source.lengths.max()))
    tokens = len(data.tokenizer.encode("eins " * 29 + "eins")) + 1
    assert longest < tokens - 1
    check_lengths(data, tokens)
    expected = (
        f"data: found {tokens} tokens in the source of {folder}/dev.de, line 3, its end included "
        f"(1 of them too long, at most {tokens}), expected at most model.context_length={tokens - 1}"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_lengths(data, tokens - 1)


def test_the_line_of_a_held_out_pair_is_the_files(build, folder):
    rows = [{"de": "kurz", "en": "one " * (50 if i == 119 else 1)} for i in range(200)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    data = build(path=str(folder / "a.jsonl"))
    with pytest.raises(ValueError, match=f"in the target of {folder}/a.jsonl, line 239, its end included"):
        check_lengths(data, 20)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"path": "/nowhere"}, FileNotFoundError, "data.path: found no pairs at /nowhere"),
        ({"validation_path": "/nowhere"}, FileNotFoundError, "data.validation_path: found no pairs at /nowhere"),
        ({"tokenizer": "json:/nowhere"}, FileNotFoundError, "data.tokenizer: found /nowhere"),
        ({"tokenizer": "byte"}, ValueError, "data.tokenizer: found 'byte'"),
        ({"tokenizer": "char"}, ValueError, "data.tokenizer: found 'char', expected one with an end-of-text token"),
        (
            {"validation_fraction": 0.001},
            ValueError,
            "data.validation_fraction: found 0.001, expected a share that holds out one or more of 200 pairs",
        ),
    ],
)
def test_what_cannot_be_prepared_is_refused(build, folder, changes, error, expected):
    with pytest.raises(error, match=re.escape(expected)):
        build(**changes)
    assert not (folder / "cache").exists()


def test_a_tokenizer_without_an_end_is_refused(build, folder):
    tokenizers.CharTokenizer("abc").save(folder / "saved")
    with pytest.raises(ValueError, match=r"data\.tokenizer: found 'saved:.*', expected one with an end-of-text token"):
        build(tokenizer=f"saved:{folder / 'saved'}")
    assert not (folder / "cache").exists()


def test_bad_validation_pairs_are_refused_before_anything_is_written(build, folder):
    write(folder / "val", [("a", "b"), ("", "b")])
    with pytest.raises(ValueError, match=r"an empty source in .*val\.de, line 2"):
        build()
    assert not (folder / "cache").exists()


def test_what_a_config_names_is_looked_for_and_nothing_touched(folder):
    config = DataConfig(path=str(folder), source="de", target="en")
    before = sorted(folder.iterdir())
    check_pairs(config)
    for changes in ({"path": "/nowhere"}, {"tokenizer": "byte"}, {"tokenizer": "char"}, {"target": "fr"}):
        with pytest.raises((ValueError, FileNotFoundError), match=r"data\.(path|tokenizer): found"):
            check_pairs(replace(config, **changes))
    assert sorted(folder.iterdir()) == before


@pytest.mark.thorough
def test_multi30k_has_its_counts(shared_data, tmp_path, log):
    config = DataConfig(path=str(shared_data / "multi30k"), source="de", target="en", vocab_size=300)
    data = prepare_pairs(config, tmp_path, log.append)
    assert (len(data.train), len(data.validation)) == (29_000, 1_014)
    first = (data.train.source[0], data.train.target[0])
    assert [data.tokenizer.decode(tokens[:-1]) for tokens in first] == [
        "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
        "Two young, White males are outside near many bushes.",
    ]
