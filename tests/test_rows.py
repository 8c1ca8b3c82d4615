"""Rows of token ids as an encoder reads them: shapes, what is cut, which stand together."""

import numpy as np
import pytest

from jaxgpt.rows import batches, cut, pad


@pytest.mark.parametrize(("longest", "time"), [(1, 16), (16, 16), (17, 32), (40, 64), (65, 99)])
def test_a_length_is_a_power_of_two(longest, time):
    tokens, real = pad([[7] * longest, [8]], 99)
    assert tokens.shape == real.shape == (2, time)
    assert real.sum(1).tolist() == [longest, 1]
    assert (tokens[real] == [7] * longest + [8]).all()
    assert not tokens[~real].any()


def test_finely_padded_rows_are_at_most_a_third_longer():
    times = [pad([[7] * n], 1000, finely=True)[0].shape[1] for n in range(1, 999)]
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
