import time

import pytest
import tiktoken
from tiers import few

from jaxgpt import tokenizers
from jaxgpt.tokenizers import BPETokenizer
from jaxgpt.tokenizers.bpe import _cut

CORPUS = ["the cat sat on the mat. ", "the dog's day isn't done: 日本語, 🌍🌍!\n"] * 20
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(iter(CORPUS), 290)


@pytest.fixture
def gpt2(shared_data, monkeypatch) -> BPETokenizer:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared_data / "tiktoken_cache"))
    return BPETokenizer.from_tiktoken("gpt2")


@pytest.mark.parametrize("vocab_size", [257, 258, 290])
def test_vocab_size_counts_bytes_merges_and_end_of_text(vocab_size):
    tokenizer = BPETokenizer.train(CORPUS, vocab_size)
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.special_tokens == {END: vocab_size - 1}
    assert tokenizer.end_of_text == vocab_size - 1
    assert sorted(tokenizer.ranks.values()) == list(range(vocab_size - 1))


def test_merges_the_most_frequent_pair_first():
    tokenizer = BPETokenizer.train(["ab"] * 5 + ["abc"] * 4 + ["xy"] * 3, 260)  # ab 9 times, then abc 4, then xy 3
    assert {token: rank for token, rank in tokenizer.ranks.items() if rank > 255} == {
        b"ab": 256,
        b"abc": 257,
        b"xy": 258,
    }
    assert tokenizer.encode("abxyabcb") == [256, 258, 257, ord("b")]
    assert tokenizer.encode("") == []


def test_vocabulary_is_smaller_when_the_pairs_run_out():
    tokenizer = BPETokenizer.train("ab", 300)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (258, 257)
    assert tokenizer.decode([256, 257]) == "ab<|endoftext|>"


def test_a_single_text_is_not_taken_for_a_list_of_characters():
    assert BPETokenizer.train("abab", 258).ranks[b"ab"] == 256


@pytest.mark.parametrize("vocab_size", [256, 0, -1])
def test_a_vocabulary_below_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size: found {vocab_size}, expected at least 257"):
        BPETokenizer.train(CORPUS, vocab_size)


def test_an_error_of_the_reader_is_passed_on():
    def texts():
        yield "abc"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        BPETokenizer.train(texts(), 300)


@pytest.mark.parametrize("which", few(["trained", "gpt2"]))
def test_any_text_comes_back(which, request, unicode_texts):
    tokenizer = request.getfixturevalue(which)
    batch = tokenizer.encode_batch(unicode_texts)
    for text, ids in zip(unicode_texts, batch, strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_of_text not in ids
    assert batch[:500] == [tokenizer.encode(text) for text in unicode_texts[:500]]


def test_special_tokens_only_when_allowed(trained):
    text = f"a{END}b"
    plain = trained.encode(text)
    assert trained.decode(plain) == text
    assert trained.end_of_text not in plain
    assert trained.encode_batch([text]) == [plain]
    for allowed in ("all", {END}, frozenset({END})):
        assert trained.encode(text, allowed_special=allowed) == [97, 289, 98]
        assert trained.encode_batch([text], allowed_special=allowed) == [[97, 289, 98]]
    assert trained.decode([97, 289, 98]) == text
    with pytest.raises(ValueError, match=r"allowed_special: found '<s>', expected one of \['<\|endoftext\|>'\]"):
        trained.encode(text, allowed_special={"<s>"})


def test_one_special_token_of_two_is_allowed():
    encoding = tiktoken.Encoding(
        "two",
        pat_str=r"\S|\s",
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={"<a>": 256, "<b>": 300},
    )
    tokenizer = BPETokenizer(encoding)
    assert tokenizer.encode("<a><b>", allowed_special={"<b>"}) == [*b"<a>", 300]
    assert tokenizer.encode("<a><b>", allowed_special="all") == [256, 300]
    assert tokenizer.vocab_size == 301
    assert tokenizer.end_of_text is None
    with pytest.raises(ValueError, match=r"^token id: found 299, expected 0\.\.300, and this id is unused$"):
        tokenizer.decode([256, 299])


@pytest.mark.parametrize("token", [290, -1, 2**40])
def test_an_id_out_of_range_is_named(trained, token):
    with pytest.raises(ValueError, match=rf"^token id: found {token}, expected 0\.\.289$"):
        trained.decode([0, token])


def test_bytes_that_are_not_utf8_become_replacement_characters(trained):
    assert trained.decode([trained.ranks[b"\xff"], trained.ranks[b"a"], trained.ranks[b"\xe2"]]) == "\ufffda\ufffd"


def test_a_lone_surrogate_is_read_as_a_replacement_character(trained):
    assert trained.decode(trained.encode("a\ud800b\ud83c\udf0d")) == "a\ufffdb🌍"
    assert BPETokenizer.train(["\ud800\ud800"], 259).ranks == BPETokenizer.train(["\ufffd\ufffd"], 259).ranks


@pytest.mark.parametrize("space", [" ", "\n", "\u3000"])
def test_a_million_spaces_neither_crash_training_nor_encoding(trained, space):
    text = space * 1_000_000 + "x"
    assert trained.decode(trained.encode(text)) == text
    assert BPETokenizer.train([text], 258).vocab_size == 258


def test_shorter_runs_of_space_are_not_cut():
    text = "a" + " " * 99_999 + "b"
    assert _cut(text) == [text]


def test_saved_and_loaded(trained, unicode_texts, tmp_path):
    trained.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert isinstance(loaded, BPETokenizer)
    assert loaded.ranks == trained.ranks
    assert loaded.special_tokens == trained.special_tokens
    assert loaded.encoding._pat_str == trained.encoding._pat_str
    assert loaded.encode_batch(unicode_texts[:1000]) == trained.encode_batch(unicode_texts[:1000])


def test_gpt2_saved_needs_no_tiktoken_cache(gpt2, tmp_path, monkeypatch):
    gpt2.save(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    loaded = tokenizers.load(tmp_path)
    assert (loaded.vocab_size, loaded.end_of_text) == (50257, 50256)
    assert loaded.encode("it's  1234 done") == gpt2.encode("it's  1234 done")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),  # tiktoken's and transformers' documentation
        ("Hello, my dog is cute", [15496, 11, 616, 3290, 318, 13779]),  # transformers, GPT2Model
        ("Akwirw ier", [33901, 86, 343, 86, 220, 959]),  # Raschka, exercise 2.1
        (END, [27, 91, 437, 1659, 5239, 91, 29]),  # tiktoken, Encoding.encode
    ],
)
def test_gpt2_gives_the_published_ids(gpt2, text, ids):
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


def test_gpt2_end_of_text(gpt2):
    assert gpt2.vocab_size == 50257
    assert gpt2.special_tokens == {END: 50256}
    assert gpt2.encode(END, allowed_special={END}) == [50256]


def test_an_unknown_encoding_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"tiktoken encoding: found 'gtp2', expected one of gpt2, .*\(nearest: gpt2\)"):
        BPETokenizer.from_tiktoken("gtp2")


def test_an_encoding_that_cannot_be_had_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # no one listens
    with pytest.raises(OSError, match="tiktoken encoding p50k_base: not in the folder TIKTOKEN_CACHE_DIR names"):
        BPETokenizer.from_tiktoken("p50k_base")


def test_a_megabyte_encodes_in_under_a_second(trained, shared_data):
    text = (shared_data / "tinyshakespeare/input.txt").read_text()[:1_000_000]
    start = time.perf_counter()
    trained.encode(text)
    assert time.perf_counter() - start < 1  # 0.1 s alone on this machine
