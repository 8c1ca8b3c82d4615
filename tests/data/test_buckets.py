import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from jaxgpt.data.buckets import BucketBatches, _least_padding, evaluation
from jaxgpt.data.labelled import Labelled
from jaxgpt.data.pair_files import PairFiles
from jaxgpt.data.pairs import Pairs
from jaxgpt.data.sequences import Sequences

END = 0
B, RUN, BUCKETS = 5, 3, 4
ARRAYS = ["source", "source_mask", "inputs", "targets", "weights"]


def make_pairs(n=97, longest=20):
    """Pairs of random lengths; every token of pair i is i + 1, on both sides."""
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        lengths = rng.integers(0, longest, size=n)
        rows = [np.append(np.full(length, i + 1), END) for i, length in enumerate(lengths)]
        sides.append(Sequences.split(np.concatenate(rows).astype(np.uint16), END))
    return Pairs(*sides, PairFiles(Path("a"), Path("b"), ("de", "en")), np.arange(n))


def of_length(source, target):
    """Pairs of the lengths given, ends included; pair i is i + 1 throughout."""
    sides = [
        Sequences.split(np.concatenate([[i + 1] * (n - 1) + [END] for i, n in enumerate(lengths)]), END)
        for lengths in (source, target)
    ]
    return Pairs(*sides, PairFiles(Path("a"), Path("b"), ("de", "en")), np.arange(len(source)))


PAIRS = make_pairs()


def batches(pairs=PAIRS, seed=0, batch_size=B):
    return BucketBatches(pairs, batch_size, seed, RUN, BUCKETS)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def lengths(batch):
    """The source and target lengths of each row."""
    return batch["source_mask"].sum(-1), batch["weights"].sum(-1).astype(int)


def numbers(batch, pairs):
    """Which pair each row is, found by its lengths and its tokens."""
    named = np.maximum(batch["source"].max(-1), batch["targets"].max(-1)) - 1
    source, target = lengths(batch)
    empty = named < 0
    assert ((source == 1) & (target == 1))[empty].all()
    nothing = np.flatnonzero((pairs.source.lengths == 1) & (pairs.target.lengths == 1))
    return np.where(empty, nothing[0] if len(nothing) else -1, named)


def test_a_batch_is_its_pairs():
    data = batches()
    for step in range(40):
        batch = data[step]
        assert list(batch) == ARRAYS
        assert [str(array.dtype) for array in batch.values()] == ["int32", "bool", "int32", "int32", "float32"]
        for row, i in enumerate(numbers(batch, PAIRS)):
            source, target = PAIRS.source[i].tolist(), PAIRS.target[i].tolist()
            rest = batch["source"].shape[1] - len(source), batch["targets"].shape[1] - len(target)
            assert batch["source"][row].tolist() == source + [END] * rest[0]
            assert batch["source_mask"][row].tolist() == [True] * len(source) + [False] * rest[0]
            assert batch["targets"][row].tolist() == target + [END] * rest[1]
            assert batch["weights"][row].tolist() == [1] * len(target) + [0] * rest[1]
            assert batch["inputs"][row].tolist() == [END, *target[:-1]] + [END] * rest[1]


def test_a_batch_depends_on_step_and_seed_alone():
    sequence = batches()
    run = [sequence[step] for step in range(60)]
    assert_same(batches()[57], run[57])
    assert not np.array_equal(run[57]["source"], run[56]["source"])
    assert any(batches(seed=1)[i]["source"].tolist() != run[i]["source"].tolist() for i in range(RUN))


def test_a_block_is_its_batches_stacked_and_of_one_run():
    data = batches()
    for step, k in [(0, 3), (6, 3), (301, 2), (302, 1)]:
        block = data.block(step, k)
        for i in range(k):
            assert_same({name: rows[i] for name, rows in block.items()}, data[step + i])
    assert data.run_length == RUN
    for step, k, left in [(1, 3, 2), (2, 2, 1), (0, 4, 3)]:
        expected = f"step: found {left} steps, expected {k} or more up to the next multiple of run_length=3"
        with pytest.raises(ValueError, match=re.escape(expected)):
            data.block(step, k)


def test_every_pair_is_seen_equally_often():
    """In n cycles a pair of a quantile with m members comes n * RUN * B / m times, rounded up or down."""
    pairs = make_pairs(96)  # 3 * BUCKETS = 12 quantiles of 8
    data, cycles = batches(pairs), 8
    seen = np.concatenate([numbers(data[step], pairs) for step in range(cycles * 3 * BUCKETS * RUN)])
    counts = np.bincount(seen, minlength=96)
    mean = cycles * RUN * B / 8
    assert counts.min() >= np.floor(mean)
    assert counts.max() <= np.ceil(mean)


def test_a_bucket_gives_each_pair_once_in_another_order_each_epoch():
    data = batches()
    bucket = int(np.argmax([len(members) for members in data._buckets]))
    members = data._buckets[bucket]
    seen = [
        numbers(data[step], PAIRS)
        for step in range(2000)
        if int(data._order(step // RUN // len(data._runs))[step // RUN % len(data._runs)]) == bucket
    ]
    epochs = np.concatenate(seen)[: 3 * len(members)].reshape(3, -1)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(members))
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_bucket_is_shuffled_by_the_seed():
    a, b = (BucketBatches(PAIRS, B, seed, RUN, 1) for seed in (0, 1))
    assert not np.array_equal(numbers(a[0], PAIRS), numbers(b[0], PAIRS))


def test_a_cycle_has_every_quantile_once_in_another_order():
    data = batches()
    orders = [data._order(cycle) for cycle in range(3)]
    for order in orders:
        assert len(order) == 3 * BUCKETS
        np.testing.assert_array_equal(np.sort(order), np.sort(orders[0]))
        assert set(order.tolist()) == set(range(BUCKETS))
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_shapes_are_few_and_change_at_runs_only():
    data = batches()
    shapes = [(batch["source"].shape, batch["targets"].shape) for batch in map(data.__getitem__, range(120))]
    assert len(set(shapes)) <= BUCKETS
    assert len(set(shapes)) >= BUCKETS - 1
    for start in range(0, 120, RUN):
        assert len(set(shapes[start : start + RUN])) == 1


def test_padding_is_what_the_batches_show():
    """Whole epochs of every bucket: 8 pairs a quantile, 15 rows a run, 8 cycles."""
    pairs = make_pairs(96)
    data = batches(pairs)
    steps = range(8 * 3 * BUCKETS * RUN)
    real = sum(int(sum(map(np.sum, lengths(data[step])))) for step in steps)
    whole = sum(data[step]["source"].size + data[step]["targets"].size for step in steps)
    assert data.padding() == pytest.approx(1 - real / whole, abs=1e-12)
    assert 0.1 < data.padding() < 0.4


def test_padding_counts_both_sides():
    pairs = of_length([2, 2, 4, 4], [3, 1, 6, 2])
    assert BucketBatches(pairs, 2, 0, 1, 1).padding() == pytest.approx(1 - 24 / (4 * (4 + 6)))


def test_tokens_are_those_that_masks_and_weights_show():
    data = batches()
    shown = [int(sum(map(np.sum, lengths(data[step])))) for step in range(250)]
    for start, end in [(0, 1), (0, 250), (37, 38), (36, 249), (100, 100), (7, 11)]:
        assert data.tokens(start, end) == sum(shown[start:end])


def test_sorting_by_length_wastes_less_than_one_bucket():
    many, one = batches().padding(), BucketBatches(PAIRS, B, 0, RUN, 1).padding()
    assert many < one - 0.1


def test_groups_are_those_with_the_least_padding():
    """Dynamic programming finds what trying every way to cut finds."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        shapes = [(int(s), int(t)) for s, t in rng.integers(1, 30, size=(8, 2))]

        def cost(groups, shapes=shapes):
            return sum((e - s) * (max(a for a, _ in shapes[s:e]) + max(b for _, b in shapes[s:e])) for s, e in groups)

        for n in (1, 2, 3, 8):
            cuts = ([0, *cut, 8] for cut in combinations(range(1, 8), n - 1))
            best = min(cost(list(pairwise(cut))) for cut in cuts)
            found = _least_padding(shapes, n)
            assert len(found) == n
            assert found[0][0] == 0
            assert found[-1][1] == 8
            assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(found))
            assert cost(found) == best


def test_fewer_pairs_than_quantiles_will_do_but_not_fewer_than_buckets():
    few = of_length([2, 3, 4, 5], [2, 2, 3, 3])
    data = batches(few, batch_size=7)
    assert data[9]["source"].shape[0] == 7
    with pytest.raises(ValueError, match=re.escape("data.buckets: found 5, expected at most the 4 training examples")):
        BucketBatches(few, B, 0, RUN, 5)


@pytest.mark.parametrize(("n", "batch_size"), [(97, 8), (96, 8), (3, 8), (97, 1)])
def test_evaluation_holds_every_pair_once(n, batch_size):
    pairs = make_pairs(n)
    blocks = list(evaluation(pairs, batch_size, BUCKETS, RUN))
    assert all(len(block["source"]) <= RUN and block["source"].shape[1] == batch_size for block in blocks)
    weights = np.concatenate([block["weights"].sum(-1).ravel() for block in blocks])
    assert len({len(block["source"]) for block in blocks}) <= BUCKETS
    assert (weights == 0).sum() < batch_size * (1 + len(blocks))  # to a whole batch, and to blocks of one length
    assert sorted(weights[weights > 0]) == sorted(pairs.target.lengths)
    for block in blocks:
        assert list(block) == ARRAYS
        assert block["source_mask"].any(-1).all()
        outside = block["weights"].sum(-1) == 0
        assert (block["source"][outside] == END).all()
        assert (block["inputs"][outside] == END).all()
    named = np.concatenate([np.maximum(b["source"].max(-1), b["targets"].max(-1)).ravel() for b in blocks])
    expected = np.arange(1, n + 1)[(pairs.source.lengths > 1) | (pairs.target.lengths > 1)]
    assert sorted(named[named > 0]) == expected.tolist()


def test_a_few_long_examples_lengthen_no_others():
    ids = [[1] * n for n in [*[5] * 90, *[60] * 6]]
    texts = Labelled(ids, None, np.zeros(96, int), np.ones(1, np.float32), [[i] for i in range(96)], last=False)
    blocks = list(evaluation(texts, 3, 2, 100))
    assert [block["inputs"].shape for block in blocks] == [(30, 3, 5), (2, 3, 60)]


def test_evaluation_has_few_shapes_and_is_the_same_each_time():
    blocks = list(evaluation(PAIRS, 3, BUCKETS, 100))
    shapes = [block["source"].shape[2:] + block["targets"].shape[2:] for block in blocks]
    assert len(set(shapes)) <= BUCKETS
    assert shapes[0] < shapes[-1]
    for a, b in zip(blocks, evaluation(PAIRS, 3, BUCKETS, 100), strict=True):
        assert_same(a, b)
