"""Batches as pure functions of the step: batch N is the same alone, in sequence, after a resume, on any process."""

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Int64, Integer, Shaped

from jaxgpt.data.config import Sampling
from jaxgpt.data.permutation import reshuffled
from jaxgpt.data.windows import spans

Batch = dict[str, Shaped[np.ndarray, "batch ..."]]
Block = dict[str, Shaped[np.ndarray, "steps batch ..."]]


class Batches(ABC):
    """batches[step] is a dict of arrays [batch_size, ...], named as the loss wants them."""

    batch_size: int
    run_length: int | None = None
    """Steps i * run_length ... (i + 1) * run_length - 1 are of one shape, other runs perhaps of another. None: all."""

    @abstractmethod
    def block(self, step: int, k: int) -> Block:
        """Batches step ... step + k - 1, all of one run, stacked, gathered at once."""

    @abstractmethod
    def tokens(self, start: int, end: int) -> int:
        """Tokens that a model reads in batches start ... end - 1, padding aside."""

    def __getitem__(self, step: int) -> Batch:
        return {name: rows[0] for name, rows in self.block(step, 1).items()}


class _Windows(Batches):
    """int32 "inputs" and, one token later, "targets", [batch_size, context_length]."""

    _spans: Shaped[np.ndarray, "windows span"]

    def tokens(self, start: int, end: int) -> int:
        return (end - start) * self.batch_size * (self._spans.shape[1] - 1)


class TrainBatches(_Windows):
    """An endless sequence of training batches.

    tokens: the training part, usually memory-mapped.
    sampling: "random" draws each window with replacement, as nanoGPT does; "epochs" gives every window once, in an
        order drawn anew each epoch, before any window again. A batch may begin in one epoch and end in the next.
    stride: tokens between the starts of neighbouring windows; None: 1 for "random", context_length for "epochs".
    Raises ValueError if not one window fits into tokens.
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, "tokens"],
        context_length: int,
        batch_size: int,
        seed: int,
        stride: int | None = None,
        sampling: Sampling = "random",
    ):
        if stride is None:
            stride = 1 if sampling == "random" else context_length
        self.batch_size = batch_size
        self._seed = seed
        self._sampling = sampling
        self._spans = spans(tokens, context_length, stride)

    def block(self, step: int, k: int) -> Block:
        windows = draw(self._sampling, len(self._spans), self._seed, step, k, self.batch_size)
        return _gather(self._spans, windows)


class EvalBatches(_Windows):
    """n batches of windows spread evenly over tokens, the same at every evaluation.

    Where tokens are shorter than all of them together, neighbouring windows overlap.
    Raises ValueError if not one window fits into tokens.
    """

    def __init__(self, tokens: Integer[np.ndarray, "tokens"], context_length: int, batch_size: int, n: int):
        self.batch_size = batch_size
        self._spans = spans(tokens, context_length, 1)
        self._starts = spread(n * batch_size, len(self._spans))

    def __len__(self) -> int:
        return len(self._starts) // self.batch_size

    def block(self, step: int, k: int) -> Block:
        """As Batches.block. Raises IndexError unless 0 <= step and step + k <= len(self)."""
        if step < 0 or step + k > len(self):
            raise IndexError(f"batches {step} to {step + k - 1}, expected 0 to {len(self) - 1}")
        return _gather(self._spans, self._starts.reshape(-1, self.batch_size)[step : step + k])


def draw(
    sampling: Sampling, size: int, seed: int, step: int, k: int, batch_size: int
) -> Int64[np.ndarray, "{k} {batch_size}"]:
    """Which of size windows are in batches step ... step + k - 1."""
    if sampling == "random":
        generators = [np.random.default_rng((seed, step + i)) for i in range(k)]
        return np.array([generator.integers(size, size=batch_size) for generator in generators])
    positions = np.arange(step * batch_size, (step + k) * batch_size)
    return reshuffled(positions, size, (seed,)).reshape(k, batch_size)


def spread(n: int, size: int) -> Int64[np.ndarray, "{n}"]:
    """n of size windows, in order and evenly apart."""
    return np.arange(n) * size // n


def _gather(
    spans: Integer[np.ndarray, "windows span"], windows: Integer[np.ndarray, "steps batch"]
) -> dict[str, Shaped[np.ndarray, "steps batch span-1"]]:
    rows = spans[windows]
    return {"inputs": rows[..., :-1].astype(np.int32), "targets": rows[..., 1:].astype(np.int32)}
