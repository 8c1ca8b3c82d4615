import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from jaxgpt.data import DataConfig
from jaxgpt.data.masking import MaskedBatches, MaskedEvalBatches, Masking
from jaxgpt.tokenizers import CharTokenizer

V, CLS, SEP, MASK, GAP = 211, 2, 3, 4, 150  # 0 to 4 are special, 150 stands for nothing
SPECIAL = np.isin(np.arange(V), [0, 1, CLS, SEP, MASK, GAP])
ORDINARY = np.flatnonzero(~SPECIAL)
CONTINUES = np.arange(V) % 3 == 0
MASKING = Masking(CLS, SEP, MASK, SPECIAL)
WORDS = replace(MASKING, continues=CONTINUES & ~SPECIAL)
TOKENS = np.random.default_rng(0).choice(ORDINARY, size=3000).astype(np.uint16)
TOKENS[::17] = 1  # special
T, B = 43, 6
N = 6  # round(0.15 * 41)

BOTH = pytest.mark.parametrize("sampling", ["random", "epochs"])
EITHER = pytest.mark.parametrize("masking", [MASKING, WORDS], ids=["tokens", "words"])


def train(sampling="random", masking=MASKING, seed=0, tokens=TOKENS, time=T, **options):
    return MaskedBatches(tokens, masking, time, B, seed, sampling=sampling, **options)


def evaluation(tokens=TOKENS, time=T):
    return MaskedEvalBatches(tokens, MASKING, time, B, 4)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def originals(block):
    """The rows before masking."""
    rows = block["inputs"].copy()
    real = block["weights"] > 0
    np.put_along_axis(rows, block["positions"], np.where(real, block["targets"], CLS), axis=-1)
    return rows


def hidden(block):
    """(shown, target) of each token to guess."""
    real = block["weights"] > 0
    return np.take_along_axis(block["inputs"], block["positions"], axis=-1)[real], block["targets"][real]


def windows(length):
    return np.lib.stride_tricks.sliding_window_view(TOKENS, length)


@EITHER
@BOTH
def test_a_row_is_cls_a_window_sep_with_some_tokens_hidden(masking, sampling):
    known = {tuple(window) for window in windows(T - 2).tolist()}
    block = train(sampling, masking).block(3, 5)
    assert [str(array.dtype) for array in block.values()] == ["int32", "int32", "int32", "float32"]
    assert list(block) == ["inputs", "positions", "targets", "weights"]
    assert block["inputs"].shape == (5, B, T)
    assert block["positions"].shape == block["targets"].shape == block["weights"].shape == (5, B, N)
    rows = originals(block)
    assert (rows[..., 0] == CLS).all()
    assert (rows[..., -1] == SEP).all()
    assert {tuple(row) for row in rows[..., 1:-1].reshape(-1, T - 2).tolist()} <= known
    np.testing.assert_array_equal(np.take_along_axis(rows, block["positions"], axis=-1), block["targets"])


@EITHER
def test_no_place_is_chosen_twice_nor_a_special_token(masking):
    block = train(masking=masking).block(0, 100)
    real = block["weights"] > 0
    assert set(np.unique(block["weights"])) <= {0.0, 1.0}
    assert not SPECIAL[block["targets"][real]].any()
    positions = np.where(real, block["positions"], np.arange(T, T + N))
    assert (np.diff(positions, axis=-1) > 0).all()
    assert (block["positions"][real] >= 1).all()
    assert (block["positions"][real] <= T - 2).all()
    assert (block["positions"][~real] == 0).all()


@BOTH
def test_every_row_hides_as_many_tokens(sampling):
    assert train(sampling).block(0, 50)["weights"].all()


@pytest.mark.parametrize(
    ("time", "rate", "n"), [(3, 0.15, 1), (4, 0.15, 1), (43, 0.15, 6), (12, 0.5, 5), (12, 0.99, 10)]
)
def test_the_number_hidden_is_the_rate_of_the_row(time, rate, n):
    tokens = TOKENS[~SPECIAL[TOKENS]]
    block = train(masking=replace(MASKING, rate=rate), tokens=tokens, time=time)[0]
    assert block["positions"].shape == (B, n)
    assert block["weights"].all()


def within(count, n, share):
    """Whether count of n is share, within 4.5 standard deviations: 7 in a million fail by chance."""
    return abs(count - n * share) < 4.5 * np.sqrt(n * share * (1 - share))


@EITHER
@BOTH
def test_of_the_hidden_80_10_10_are_mask_random_and_themselves(masking, sampling):
    shown, targets = hidden(train(sampling, masking).block(0, 1500))
    n = len(targets)
    assert n > 40_000
    same = 0.1 + 0.1 / len(ORDINARY)
    assert within((shown == MASK).sum(), n, 0.8)
    assert within((shown == targets).sum(), n, same)
    other = shown[(shown != MASK) & (shown != targets)]
    assert within(len(other), n, 0.2 - same)
    assert not SPECIAL[other].any()
    counts = np.bincount(other, minlength=V)[ORDINARY]
    mean = counts.mean()
    assert ((counts - mean) ** 2 / mean).sum() < 204 + 4.5 * np.sqrt(2 * 204)  # chi-squared, 204 degrees of freedom


def test_every_place_of_a_row_is_hidden_equally_often():
    tokens = TOKENS[~SPECIAL[TOKENS]]
    positions = train(tokens=tokens).block(0, 1000)["positions"]
    counts = np.bincount(positions.ravel(), minlength=T)
    assert counts[[0, T - 1]].tolist() == [0, 0]
    assert all(within(count, 1000 * B, N / (T - 2)) for count in counts[1:-1])


def test_two_places_are_hidden_together_as_often_as_chance_has_it():
    tokens = TOKENS[~SPECIAL[TOKENS]]
    positions = train(tokens=tokens).block(0, 1000)["positions"].reshape(-1, N)
    together = sum(((positions == a).any(1) & (positions == a + 1).any(1)).sum() for a in range(1, T - 2))
    assert within(together, len(positions) * (T - 3), N / (T - 2) * (N - 1) / (T - 3))


@EITHER
@BOTH
def test_a_batch_depends_on_step_and_seed_alone(masking, sampling):
    sequence = train(sampling, masking)
    run = [sequence[step] for step in range(60)]
    assert_same(train(sampling, masking)[57], run[57])
    block = sequence.block(30, 30)  # several epochs: 73 windows
    for i in range(30):
        assert_same({name: rows[i] for name, rows in block.items()}, run[30 + i])
    assert not np.array_equal(run[57]["positions"], run[56]["positions"])
    assert not np.array_equal(run[57]["positions"], train(sampling, masking, seed=1)[57]["positions"])


def test_another_epoch_masks_differently():
    batches = train("epochs")
    size = len(windows(T - 2)[:: T - 2])
    block = batches.block(0, -(-3 * size // B))
    rows, positions = originals(block).reshape(-1, T)[: 3 * size], block["positions"].reshape(-1, N)[: 3 * size]
    seen = {}
    for row, chosen in zip(rows.tolist(), positions.tolist(), strict=True):
        seen.setdefault(tuple(row), []).append(chosen)
    assert len(seen) == size
    assert all(len(chosen) == 3 for chosen in seen.values())
    same = sum(len({tuple(c) for c in chosen}) < 3 for chosen in seen.values())
    assert same == 0  # one of 4.5 million choices


@BOTH
def test_masks_are_of_the_place_that_is_documented(sampling):
    """(seed, epoch, window) or (seed, step, row), whatever else is in the batch."""
    tokens = TOKENS[: 5 * (T - 2)]
    batches = train(sampling, seed=8, tokens=tokens, stride=T - 2)
    batch = batches[7]  # rows 42 to 47: windows of epochs 8 and 9
    rows = tokens.reshape(5, -1).tolist()
    for row in range(B):
        window = rows.index(originals(batch)[row, 1:-1].tolist())
        key = ((7 * B + row) // 5, window) if sampling == "epochs" else (7, row)
        alone = MASKING.block(np.array([[rows[window]]]), (8, 0, 1), np.array([key]))
        assert_same({name: array[0, 0] for name, array in alone.items()}, {k: v[row] for k, v in batch.items()})


def test_the_rows_of_a_random_batch_are_masked_differently():
    """Even of one window; and by another seed."""
    block = train(tokens=TOKENS[: T - 2]).block(0, 20)
    other = train(tokens=TOKENS[: T - 2], seed=1).block(0, 20)
    assert (block["positions"] == other["positions"]).all(-1).sum() == 0
    assert len({tuple(row) for row in originals(block).reshape(-1, T).tolist()}) == 1
    assert len({tuple(row) for row in block["positions"].reshape(-1, N).tolist()}) == 20 * B


def test_every_window_comes_once_an_epoch_and_a_ragged_tail_is_left_out():
    tokens = TOKENS[: 5 * (T - 2) + 7]
    rows = originals(train("epochs", tokens=tokens).block(0, 10))[..., 1:-1].reshape(-1, T - 2)
    expected = sorted(tokens[: 5 * (T - 2)].reshape(5, -1).tolist())
    for epoch in range(12):
        assert sorted(rows[5 * epoch : 5 * epoch + 5].tolist()) == expected
    rows = originals(train("epochs", tokens=tokens, stride=10).block(0, 4))[..., 1:-1].reshape(-1, T - 2)
    known = {tuple(tokens[at : at + T - 2].tolist()) for at in range(0, len(tokens) - T + 3, 10)}
    assert {tuple(row) for row in rows.tolist()} == known


@EITHER
def test_a_row_with_few_ordinary_tokens_leaves_places_empty(masking):
    tokens = np.full(500, 1, np.uint16)
    tokens[::20] = 7  # continues nothing
    block = train(masking=masking, tokens=tokens).block(0, 40)
    counts = block["weights"].sum(-1)
    assert set(counts.ravel()) == {2.0, 3.0}
    _, targets = hidden(block)
    assert (targets == 7).all()
    empty = block["weights"] == 0
    assert (block["positions"][empty] == 0).all()
    assert (block["targets"][empty] == CLS).all()
    assert (block["inputs"][..., 0] == CLS).all()


def word_starts(row):
    """Where the words of a row begin, one token at a time."""
    starts = []
    for i, token in enumerate(row):
        starts.append(i == 0 or SPECIAL[token] or SPECIAL[row[i - 1]] or not WORDS.continues[token])
    return np.array(starts)


def test_the_pieces_of_a_word_are_hidden_together():
    block = train(masking=WORDS).block(0, 60)
    rows = originals(block)[..., 1:-1].reshape(-1, T - 2)
    chosen = [
        p[w > 0] - 1 for p, w in zip(block["positions"].reshape(-1, N), block["weights"].reshape(-1, N), strict=True)
    ]
    several = 0
    for row, places in zip(rows, chosen, strict=True):
        word = np.cumsum(word_starts(row))
        for w in set(word[places]):
            assert set(np.flatnonzero(word == w)) <= set(places.tolist())
            several += (word == w).sum() > 1
    assert several > 300


def greedy(row, scores, n):
    """The words in the order of their scores, each taken if it still fits: one token at a time."""
    starts = np.flatnonzero(word_starts(row))
    words = [range(a, b) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)]
    chosen = []
    for word in sorted(words, key=lambda word: scores[word[0]]):
        if not SPECIAL[row[word[0]]] and len(chosen) + len(word) <= n:
            chosen += word
    return sorted(chosen)


@pytest.mark.parametrize("n", [1, 2, 6, 20])
def test_words_are_drawn_until_no_more_fit(n):
    rows = windows(41)[::29].astype(np.int32)
    scores = np.random.default_rng(0).random(rows.shape)
    found = WORDS._chosen(rows, scores, n)
    assert found.shape == (len(rows), n)
    for row, places, score in zip(rows, found, scores, strict=True):
        assert [p for p in places.tolist() if p < 41] == greedy(row, score, n)


def test_whole_words_come_as_near_the_rate_as_they_can():
    """Words of one token are there to fill up every row."""
    weights = train(masking=WORDS).block(0, 100)["weights"]
    assert weights.mean() > 0.999


def test_evaluation_is_evenly_spread_and_masked_the_same_each_time():
    batches = evaluation()
    assert len(batches) == 4
    block = batches.block(0, 4)
    starts = np.arange(24) * (len(TOKENS) - T + 3) // 24
    expected = windows(T - 2)[starts]
    np.testing.assert_array_equal(originals(block)[..., 1:-1].reshape(-1, T - 2), expected)
    again = evaluation()
    for step in range(4):
        assert_same(again[step], {name: rows[step] for name, rows in block.items()})
    assert len({tuple(row) for row in block["positions"].reshape(-1, N).tolist()}) == 24
    assert_same({k: v[1] for k, v in batches.block(2, 2).items()}, batches[3])
    for step, k in [(4, 1), (3, 2), (-1, 1)]:
        with pytest.raises(IndexError, match="expected 0 to 3"):
            batches.block(step, k)


def test_tokens_count_whole_rows():
    assert train().tokens(3, 8) == 5 * B * T
    assert evaluation().tokens(0, 4) == 4 * B * T


@pytest.mark.parametrize("make", [lambda t, n: train(tokens=t, time=n), lambda t, n: evaluation(t, time=n)])
def test_too_short_a_text_or_row_is_refused(make):
    make(TOKENS[:62], 64)
    with pytest.raises(ValueError, match=r"found 61 tokens, expected at least context_length - 2 = 62"):
        make(TOKENS[:61], 64)
    with pytest.raises(ValueError, match=r"^model.context_length: found 2, expected 3 or more"):
        make(TOKENS, 2)


class Special(CharTokenizer):
    """Characters, with the special tokens of an encoder in place of some."""

    cls: ClassVar = 0
    sep: ClassVar = 1
    mask: ClassVar = 2
    continues: ClassVar = np.array([False, False, False, False, True])
    special_tokens: ClassVar = {"[CLS]": 0, "[SEP]": 1, "[MASK]": 2}


def test_masking_follows_from_the_tokenizer_and_the_config():
    tokenizer = Special("abcde")
    masking = Masking.of(tokenizer, DataConfig(mask_rate=0.3))
    assert (masking.cls, masking.sep, masking.mask, masking.rate) == (0, 1, 2, 0.3)
    assert masking.special.tolist() == [True, True, True, False, False]
    assert masking.continues is None
    assert Masking.of(tokenizer, DataConfig(whole_word=True)).continues.tolist() == Special.continues.tolist()


@pytest.mark.parametrize(
    ("missing", "config", "expected"),
    [
        ({"cls": None}, {}, "data.tokenizer: found 'bpe', expected one with [CLS], [SEP] and [MASK]"),
        ({"mask": None}, {}, "data.tokenizer: found 'bpe', expected one with [CLS], [SEP] and [MASK]"),
        (
            {"continues": None},
            {"whole_word": True},
            "data.whole_word: found True, expected False for data.tokenizer=",
        ),
    ],
)
def test_a_tokenizer_that_cannot_mask_is_refused(missing, config, expected):
    tokenizer = type("Lacking", (Special,), missing)("abcde")
    with pytest.raises(ValueError, match=re.escape(expected)):
        Masking.of(tokenizer, DataConfig(**config))
