"""Rows of token ids as an encoder reads them: shapes, what is cut, which stand together."""

import numpy as np
import pytest

from jaxgpt.rows import batches, cut, framed, pad
from jaxgpt.tokenizers import CharTokenizer, wordpiece


@pytest.mark.parametrize(("longest", "time"), [(1, 16), (16, 16), (17, 32), (40, 64), (65, 99)])
def test_a_length_is_a_power_of_two(longest, time):
    tokens, real = pad([[7] * longest, [8]], 99)
    assert tokens.shape == real.shape == (2, time)
    assert real.sum(1).tolist() == [longest, 1]
    assert (tokens[real] == [7] * longest + [8]).all()
    assert not tokens[~real].any()


def test_rows_padded_by_steps_are_at_most_a_third_or_a_seventh_longer():
    fine = [pad([[7] * n], 1000, steps=8)[0].shape[1] for n in range(1, 999)]
    assert all(n <= time <= max(n * 8 / 7, n + 1) for n, time in enumerate(fine, 1))
    times = [pad([[7] * n], 1000, steps=4)[0].shape[1] for n in range(1, 999)]
    assert sorted(set(times)) == [4, 8, 12, 16, 20, 24, 28, *range(32, 64, 8), *range(64, 128, 16), *range(128, 256, 32), *range(256, 512, 64), *range(512, 1000, 128), 1000]  # fmt: skip  # noqa: E501
    assert all(n <= time <= max(n * 4 / 3, n + 3) for n, time in enumerate(times, 1))


def test_batches_hold_each_row_once_and_the_like_together():
    rows = [[i] * n for i, n in enumerate([5, 30, 2, 17, 9, 4, 33])]
    found = list(batches(rows, 40, 3))
    assert [[len(rows[i]) for i in chosen] for chosen, _, _ in found] == [[2, 4, 5], [9, 17, 30], [33]]
    assert [tokens.shape for _, tokens, _ in found] == [(4, 8), (4, 32), (1, 40)]
    for chosen, tokens, real in found:
        assert [tokens[i][real[i]].tolist() for i in range(len(chosen))] == [rows[i] for i in chosen]
        assert not real[len(chosen) :].any()
    assert list(batches([], 40, 3)) == []


def test_batches_of_long_rows_are_smaller_on_a_cpu():
    """No batch has room for more than 2,048 tokens but for one row alone, and no row is lost."""
    found = list(batches([[7] * n for n in (100, 1500, 10, 80, 90, 300, 1100)], 2000, 5))
    assert [[int(n) for n in real.sum(1)] for _, _, real in found] == [[10, 80, 90, 100], [300], [1100], [1500]]
    assert sorted(i for chosen, _, _ in found for i in chosen) == list(range(7))


@pytest.mark.parametrize(
    "lengths", [(3, None), (9, None), (0, 9), (9, 0), (3, 3), (2, 9), (9, 2), (5, 9), (9, 5), (9, 9)]
)
@pytest.mark.parametrize("room", [5, 6, 7])
def test_the_longer_of_two_texts_is_cut_as_in_the_tokenizers_library(lengths, room):
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.enable_truncation(room)
    first, second = lengths
    wanted = library.encode("a " * first, None if second is None else "b " * second).ids
    one, other = cut([0] * first, None if second is None else [1] * second, room)
    assert [*one, *(other or [])] == wanted
    assert np.all(np.diff(wanted) >= 0)


def test_texts_are_framed_and_those_that_were_cut_are_listed():
    pieces = wordpiece.train(["a b c d e f g h"] * 3, 30)
    texts = ["a b", "a b c d e f", ("a b c d e", "f"), ("a b", "c"), "a b c d e f g h"]
    rows, segments, shorter = framed(pieces, texts, 10)
    assert shorter == []  # 8 and two around them are as many as there is room for
    parts = [(text, None) if isinstance(text, str) else text for text in texts]
    wanted = [(pieces.encode(one), None if two is None else pieces.encode(two)) for one, two in parts]
    assert rows == [pieces.frame(*pair) for pair in wanted]
    assert segments == [pieces.segments(*pair) for pair in wanted]

    rows, segments, shorter = framed(pieces, texts, 10, 7)
    assert shorter == [1, 2, 4]
    assert [len(row) for row in rows] == [4, 7, 7, 6, 7]
    assert rows[1] == pieces.frame(pieces.encode("a b c d e"))
    assert rows[2] == pieces.frame(pieces.encode("a b c"), pieces.encode("f"))
    assert [len(row) for row in segments] == [len(row) for row in rows]


def test_a_text_that_is_too_long_or_none_is_refused_by_its_number():
    letters = CharTokenizer("abc")
    with pytest.raises(
        ValueError, match="text 1: found 5 tokens, expected at most 4, 0 that begin and end it among them"
    ):
        framed(letters, ["ab", "abcab"], 4)
    assert framed(letters, ["ab", "abcab"], 4, 99) == ([[0, 1], [0, 1, 2, 0]], [[0] * 2, [0] * 4], [1])
    with pytest.raises(ValueError, match="text 1: found 'no tokens', expected at least one"):
        framed(letters, ["ab", ""], 4)
