import random
import time

import pytest
import tokenizers as library
from tokenizers import decoders, models, pre_tokenizers

from jaxgpt.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    JSONTokenizer,
    StreamedText,
    StreamingDecoder,
    Tokenizer,
    WordTokenizer,
)

TEXT = "the cat, \"sat\" -- it's 日本語 🌍👩‍👩‍👧 é \ufffd x\ufffd\ufffd don't  <|endoftext|>\n"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def from_library(model: models.Model, decoder: decoders.Decoder | None) -> JSONTokenizer:
    built = library.Tokenizer(model)
    if decoder:
        built.decoder = decoder
    built.add_special_tokens(["<s>"])
    return JSONTokenizer(built.to_str())


def words(*tokens: str) -> models.WordLevel:
    return models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0])


LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
BYTE_LEVEL = sorted(pre_tokenizers.ByteLevel.alphabet())
KINDS = {
    "char": lambda: CharTokenizer.train(TEXT),
    "word": lambda: WordTokenizer.train(TEXT),
    "bpe": lambda: BPETokenizer.train([TEXT] * 3, 280),
    "byte level": lambda: from_library(words(*BYTE_LEVEL, "ðŁ", "ĠðŁĮ", "the"), decoders.ByteLevel()),
    "byte fallback": lambda: from_library(words(*BYTES, "▁", "▁a", "b", "日本", "\ufffd", "▁▁"), LLAMA),
    "metaspace": lambda: from_library(words("▁", "▁a", "b", "c", "▁▁", "\ufffd"), decoders.Metaspace()),
    "wordpiece": lambda: from_library(words("a", "##b", ".", "n't", "##", "do", "'"), decoders.WordPiece()),
    "bpe suffix": lambda: from_library(words("a</w>", "b", "c</w>", "d"), decoders.BPEDecoder("</w>")),
    "no decoder": lambda: from_library(words("a", "b", "\ufffd"), None),
}


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamingDecoder(tokenizer)
    return [*map(decoder.push, ids), decoder.flush()]


@pytest.fixture(params=KINDS)
def tokenizer(request) -> Tokenizer:
    return KINDS[request.param]()


def test_pieces_make_up_the_whole(tokenizer):
    rng = random.Random(0)
    for length in [*range(12), *(rng.randrange(60) for _ in range(150))]:
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(length)]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids), ids


def test_valid_text_streams_without_replacement_characters():
    text = TEXT.replace("\ufffd", "")
    tokenizer = KINDS["bpe"]()
    pieces = streamed(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize("garbage", [[0xE2], [0xF0, 0x9F], [0x80], [0xFF, 0xC3], [0xF0, 0x9F, 0x8C]])
@pytest.mark.parametrize("repeats", [1, 2, 9])
def test_bytes_in_every_order(garbage, repeats):
    tokenizer = BPETokenizer.train("", 257)
    for tail in (b"", b"x", "🌍".encode(), b"\x8d", b"\x9f"):
        ids = [*garbage * repeats, *tail]
        assert "".join(streamed(tokenizer, ids)) == bytes(ids).decode("utf-8", "replace")


def test_an_emoji_split_into_bytes_comes_when_it_is_whole():
    tokenizer = BPETokenizer.train("", 257)
    assert streamed(tokenizer, list("é🌍!".encode())) == ["", "é", "", "", "", "🌍", "!", ""]
    assert streamed(tokenizer, list("a🌍".encode())[:3]) == ["a", "", "", "\ufffd"]


def test_word_by_word():
    tokenizer = WordTokenizer.train("a cat, sat")
    assert streamed(tokenizer, tokenizer.encode("a cat, a")) == ["a", " cat", ",", " a", ""]


def test_a_wrong_byte_spoils_its_whole_run_so_the_run_is_held_back():
    tokenizer = KINDS["byte fallback"]()
    assert streamed(tokenizer, [*"é".encode(), 257, *"é".encode(), 0xFF, 257]) == [
        *("", "", "é a"),
        *("", "", "", "\ufffd\ufffd\ufffd a"),
        "",
    ]


def test_flush_begins_a_new_text():
    decoder = StreamingDecoder(WordTokenizer.train("a b"))
    assert [decoder.push(0), decoder.push(1), decoder.flush(), decoder.push(1)] == ["a", " b", "", "b"]


def test_a_wrong_id_raises_and_changes_nothing(tokenizer):
    decoder = StreamingDecoder(tokenizer)
    text = decoder.push(0)
    with pytest.raises(ValueError, match=f"token id: found {tokenizer.vocab_size}"):
        decoder.push(tokenizer.vocab_size)
    assert text + decoder.push(1) + decoder.flush() == tokenizer.decode([0, 1])


@pytest.mark.parametrize("token", [97, 0xFF])  # a letter, a byte that is never part of a character
def test_cost_does_not_grow_with_the_text(token):
    decoder = StreamingDecoder(BPETokenizer.train("", 257))

    def seconds(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            decoder.push(token)
        return time.perf_counter() - start

    seconds(100)
    first = seconds(1000)
    seconds(6000)
    assert seconds(1000) < 4 * first + 0.05


LETTERS = "abcdefghijklmnopqrstuvw"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (["cd", "bcdef"], "ab"),  # the first complete, not the first begun
        (["cd", "bcd"], "a"),  # complete together: the longer
        (["bcx", "cq", "efgh"], "abcd"),
        (["abcdefghi"], "abcdefgh"),  # never complete
        (["a"], ""),
    ],
)
def test_of_several_stop_strings_the_first_complete_cuts(stops, expected):
    tokenizer = CharTokenizer(LETTERS)
    text = StreamedText(tokenizer, [0], stops)
    assert "".join(text.extend([i]) for i in range(8)) + text.finish() == expected
    assert not text.stopped or text.extend([0]) == ""


def test_what_may_begin_a_stop_string_is_held_back_and_nothing_else():
    text = StreamedText(CharTokenizer(LETTERS), [0], ["aab", "bc"])
    pieces = [text.extend([LETTERS.index(letter)]) for letter in "caaadabaaba"]
    assert pieces == ["c", "", "", "a", "aad", "", "a", "b", "", "", ""]


def test_a_text_through_the_token_that_completes_a_stop_string():
    """As transformers cuts, which looks at whole tokens, and at special ones between them."""
    tokenizer = WordTokenizer(["one", "two", "three"])
    one, two, three = tokenizer.encode("one two three")
    end = tokenizer.end_of_text

    def text(tokens, stop):
        made = StreamedText(tokenizer, [], [stop], unsaid={end}, through=True)
        return "".join(made.extend([token]) for token in tokens) + made.finish(), made.stopped

    assert text([one, two, three, one], "e tw") == ("one two", True)
    assert text([one, two, three, one], "o th") == ("one two three", True)
    assert text([one, end, two, three], "e tw") == ("one two three", False)
    assert text([end, one, end, two], "x") == ("one two", False)
