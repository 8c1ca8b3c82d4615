"""Batches of translation pairs of like lengths, as pure functions of the step: few shapes, little padding."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from jaxgpt.data.batches import Batches, Block
from jaxgpt.data.pairs import Pairs
from jaxgpt.data.permutation import reshuffled

CELLS = 3  # quantiles per bucket: Multi30k's padding is 29 % with 1, 22 % with 2, 19 % with 3


class TrainPairBatches(Batches):
    """An endless sequence of training batches, whose shape changes every run_length steps.

    Sorted by length, the pairs are cut into CELLS * buckets quantiles of one size, and neighbouring quantiles are
    joined into buckets, those with the least padding. A batch holds pairs of one bucket, padded to the bucket's longest
    source and longest target. A cycle is one run of run_length steps for each quantile, in an order drawn anew: every
    pair is seen equally often. Within a bucket each pair comes once, in an order drawn anew, before any comes again.

    A batch: "source" and "source_mask" [batch_size, S]; "inputs", "targets" and "weights" [batch_size, T], where
    end-of-text ends each source, starts the inputs, ends the targets and fills up the rest (of weight 0).
    Raises ValueError if there are fewer pairs than buckets.
    """

    def __init__(self, pairs: Pairs, batch_size: int, seed: int, run_length: int = 10, buckets: int = 6):
        if len(pairs) < buckets:
            raise ValueError(f"data.buckets: found {buckets}, expected at most the {len(pairs)} training pairs")
        self.batch_size = batch_size
        self.run_length = run_length
        self._pairs = pairs
        self._seed = seed
        self._lengths = pairs.source.lengths + pairs.target.lengths
        cells = np.array_split(_by_length(pairs), min(CELLS * buckets, len(pairs)))
        groups = _least_padding([_shape(pairs, cell) for cell in cells], buckets)
        self._buckets = [np.concatenate(cells[start:end]) for start, end in groups]
        self._shapes = [_shape(pairs, bucket) for bucket in self._buckets]
        self._runs = np.repeat(np.arange(len(groups)), [end - start for start, end in groups])

    def block(self, step: int, k: int) -> Block:
        """As Batches.block. Raises ValueError where the steps are not of one run."""
        run = step // self.run_length
        if (step + k - 1) // self.run_length != run:
            expected = f"{k} or more up to the next multiple of run_length={self.run_length}"
            raise ValueError(f"step: found {self.run_length - step % self.run_length} steps, expected {expected}")
        cycle, place = divmod(run, len(self._runs))
        bucket = int(self._order(cycle)[place])
        first = self._drawn(step, bucket)
        which = self._draw(bucket, first, first + k * self.batch_size)
        return _gather(self._pairs, which.reshape(k, self.batch_size), self._shapes[bucket])

    def tokens(self, start: int, end: int) -> int:
        """As Batches.tokens: those of the sources and of the targets."""
        return sum(
            self._read(self._drawn(end, bucket), bucket) - self._read(self._drawn(start, bucket), bucket)
            for bucket in range(len(self._buckets))
        )

    def padding(self) -> float:
        """The share of padding in a cycle's batches, sources and targets together."""
        runs = np.bincount(self._runs)
        tokens = [self._lengths[bucket].mean() for bucket in self._buckets]
        return float(1 - runs @ tokens / (runs @ np.sum(self._shapes, axis=1)))

    def _order(self, cycle: int) -> Int64[np.ndarray, "runs"]:
        """The bucket of each run of a cycle."""
        return np.random.default_rng((self._seed, cycle)).permutation(self._runs)

    def _drawn(self, step: int, bucket: int) -> int:
        """How many rows come from the bucket in the steps before this one."""
        run, steps = divmod(step, self.run_length)
        cycle, place = divmod(run, len(self._runs))
        before = self._order(cycle)[: place + 1] == bucket
        runs = cycle * int((self._runs == bucket).sum()) + int(before[:place].sum())
        return (runs * self.run_length + steps * int(before[place])) * self.batch_size

    def _draw(self, bucket: int, start: int, end: int) -> Int64[np.ndarray, "pairs"]:
        """The pairs of rows start ... end - 1 of all that ever come from the bucket."""
        members = self._buckets[bucket]
        return members[reshuffled(np.arange(start, end), len(members), (self._seed, bucket))]

    def _read(self, rows: int, bucket: int) -> int:
        """The tokens in the first rows of all that ever come from the bucket."""
        lengths = self._lengths[self._buckets[bucket]]
        epochs, rest = divmod(rows, len(lengths))
        return epochs * int(lengths.sum()) + int(self._lengths[self._draw(bucket, rows - rest, rows)].sum())


def evaluation(pairs: Pairs, batch_size: int, buckets: int = 6, run_length: int = 10) -> Iterator[Block]:
    """Blocks of at most run_length batches, as of TrainPairBatches, that hold every pair once.

    The last batch is filled up with rows that are end-of-text alone and weigh nothing. Batches have at most `buckets`
    shapes, and no two pairs of very different lengths.
    """
    order = _by_length(pairs)
    n_batches = -(-len(pairs) // batch_size)
    filled = np.concatenate([order, np.full(n_batches * batch_size - len(pairs), -1)]).reshape(n_batches, batch_size)
    for bucket in np.array_split(filled, min(buckets, n_batches)):
        shape = _shape(pairs, bucket[bucket >= 0])
        for at in range(0, len(bucket), run_length):
            yield _gather(pairs, bucket[at : at + run_length], shape)


def _by_length(pairs: Pairs) -> Int64[np.ndarray, "pairs"]:
    """The pairs by the longer of source and target: on Multi30k, 8 % less padding than sorted by their sum."""
    source, target = pairs.source.lengths, pairs.target.lengths
    return np.lexsort((source, np.maximum(source, target)))


def _shape(pairs: Pairs, which: Int64[np.ndarray, "pairs"]) -> tuple[int, int]:
    return int(pairs.source.lengths[which].max()), int(pairs.target.lengths[which].max())


def _least_padding(shapes: list[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """(start, end) of n groups of neighbouring cells, each cell padded to its group's longest source and target, such
    that the least is padded: by dynamic programming, the best of i + 1 groups from the best of i."""
    cells = len(shapes)
    cost = np.full((cells, cells + 1), np.inf)  # of the group [start, end)
    for start in range(cells):
        widest = np.maximum.accumulate(np.array(shapes[start:]), axis=0).sum(axis=1)
        cost[start, start + 1 :] = widest * np.arange(1, cells - start + 1)
    best = cost[0]  # of the cells before each, in one group
    choices = []
    for _ in range(n - 1):
        several = best[:-1, None] + cost
        choices.append(several.argmin(axis=0))
        best = several.min(axis=0)
    ends = [cells]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return list(zip([0, *ends[:0:-1]], ends[::-1], strict=True))


def _gather(pairs: Pairs, which: Int64[np.ndarray, "steps batch"], shape: tuple[int, int]) -> Block:
    """The pairs `which` as a block; -1: a row of no pair."""
    real = which >= 0
    source, source_mask = pairs.source.rows(which, shape[0])
    targets, weights = pairs.target.rows(which, shape[1])
    if not real.all():
        source[~real], targets[~real] = pairs.source.end, pairs.target.end
        source_mask[~real] = np.arange(shape[0]) == 0  # not empty: a softmax over nothing is NaN
        weights[~real] = False
    start = np.full_like(targets[..., :1], pairs.target.end)
    return {
        "source": source,
        "source_mask": source_mask,
        "inputs": np.concatenate([start, targets[..., :-1]], axis=-1),
        "targets": targets,
        "weights": weights.astype(np.float32),
    }
