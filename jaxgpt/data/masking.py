"""Rows of a text with some tokens masked, for a model to guess: [CLS] tokens [SEP], pure functions of the step."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from jaxgpt.checks import require
from jaxgpt.data.batches import Batches, Block, draw, spread
from jaxgpt.data.config import DataConfig, Sampling
from jaxgpt.data.noise import uniform
from jaxgpt.tokenizers import Tokenizer

_TRAINING, _EVALUATION = 1, 2  # no two sequences of random numbers from one seed


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen and hidden. Source: Devlin et al. 2019, section 3.1 and appendix A.1.

    Of the chosen tokens 80 % become [MASK], 10 % an ordinary token at random, 10 % stay. Special tokens are never
    chosen.
    """

    cls: int
    sep: int
    mask: int
    special: Bool[np.ndarray, "vocab"]
    """True at what is no ordinary token: a special one, or an id that stands for none."""
    rate: float = 0.15
    """The share of a row's tokens that is chosen."""
    continues: Bool[np.ndarray, "vocab"] | None = None
    """True at a token that goes on within the word before it: the pieces of a word are chosen together. None: each
    token is chosen by itself."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, config: DataConfig) -> "Masking":
        """Raises ValueError where the tokenizer lacks [CLS], [SEP] or [MASK], or can't tell the pieces of a word."""
        special = (tokenizer.cls, tokenizer.sep, tokenizer.mask)
        expected = "one with [CLS], [SEP] and [MASK], to learn from masked tokens"
        require(None not in special, "data.tokenizer", config.tokenizer, expected)
        expected = f"False for data.tokenizer={config.tokenizer!r}, which does not tell the pieces of a word"
        require(not config.whole_word or tokenizer.continues is not None, "data.whole_word", True, expected)
        is_special = np.ones(tokenizer.vocab_size, bool)
        is_special[list(tokenizer.ids)] = False
        is_special[list(tokenizer.special_tokens.values())] = True
        return cls(*special, is_special, config.mask_rate, tokenizer.continues if config.whole_word else None)

    def count(self, length: int) -> int:
        """How many of length tokens are chosen."""
        return max(1, round(self.rate * length))

    def block(
        self,
        tokens: Integer[np.ndarray, "steps batch length"],
        seed: tuple[int, ...],
        keys: Int64[np.ndarray, "rows _"],
    ) -> Block:
        """Rows of tokens, masked by random numbers that seed and the row's own keys decide.

        "inputs" [steps, batch, length + 2]; "positions" in them of the chosen tokens in order, "targets", what stood
        there, and "weights", 1, [steps, batch, count(length)]. Places that are left are position 0, [CLS], of weight 0.
        """
        steps, batch, length = tokens.shape
        tokens = tokens.reshape(-1, length).astype(np.int32)
        n = self.count(length)
        scores, action, other = np.split(uniform(seed, keys, length + 2 * n), [length, length + n], axis=1)
        chosen = np.sort(self._chosen(tokens, scores, n), axis=1)
        weights = chosen < length
        positions = np.where(weights, chosen + 1, 0)
        inputs = np.pad(tokens, ((0, 0), (1, 1)), constant_values=((0, 0), (self.cls, self.sep)))
        targets = np.take_along_axis(inputs, positions, axis=1)
        ordinary = np.flatnonzero(~self.special)
        shown = np.where(action < 0.9, ordinary[(other * len(ordinary)).astype(np.int64)], targets)
        shown = np.where(action < 0.8, self.mask, shown)
        np.put_along_axis(inputs, positions, np.where(weights, shown, self.cls).astype(np.int32), axis=1)
        rows = {
            "inputs": inputs,
            "positions": positions.astype(np.int32),
            "targets": targets,
            "weights": weights.astype(np.float32),
        }
        return {name: row.reshape(steps, batch, -1) for name, row in rows.items()}

    def _chosen(
        self, tokens: Integer[np.ndarray, "rows length"], scores: Float64[np.ndarray, "rows length"], n: int
    ) -> Int64[np.ndarray, "rows {n}"]:
        """n places of each row, those of the lowest scores; length where there are no more."""
        length = tokens.shape[1]
        special = self.special[tokens]
        if self.continues is not None:
            return _whole_words(self.continues[tokens], special, scores, n)
        scores = np.where(special, np.inf, scores)
        places = np.argpartition(scores, n - 1, axis=1)[:, :n] if n < length else np.argsort(scores, axis=1)
        return np.where(np.take_along_axis(special, places, axis=1), length, places)


class _Masked(Batches):
    """Batches of Masking.block, each row a window of context_length - 2 tokens."""

    _masking: Masking
    _windows: Integer[np.ndarray, "windows length"]

    def tokens(self, start: int, end: int) -> int:
        return (end - start) * self.batch_size * (self._windows.shape[1] + 2)


class MaskedBatches(_Masked):
    """An endless sequence of training batches.

    tokens, sampling and stride: as in TrainBatches; what is shorter than a window is left out. A window's masks are
    drawn anew each time it comes: from seed, epoch and window for "epochs", from seed, step and row for "random".
    Raises ValueError if not one window fits into tokens.
    """

    def __init__(
        self,
        tokens: Integer[np.ndarray, "tokens"],
        masking: Masking,
        context_length: int,
        batch_size: int,
        seed: int,
        stride: int | None = None,
        sampling: Sampling = "random",
    ):
        if stride is None:
            stride = 1 if sampling == "random" else context_length - 2
        self.batch_size = batch_size
        self._masking = masking
        self._seed = seed
        self._sampling = sampling
        self._windows = _windows(tokens, context_length)[::stride]

    def block(self, step: int, k: int) -> Block:
        size = len(self._windows)
        window = draw(self._sampling, size, self._seed, step, k, self.batch_size)
        row = np.arange(step * self.batch_size, (step + k) * self.batch_size)
        epochs = np.stack([row // size, window.ravel()], axis=1)
        keys = epochs if self._sampling == "epochs" else np.stack(np.divmod(row, self.batch_size), axis=1)
        return self._masking.block(self._windows[window], (self._seed, 0, _TRAINING), keys)


class MaskedEvalBatches(_Masked):
    """n batches of windows spread evenly over tokens, the same windows and masks at every evaluation.

    Where tokens are shorter than all of them together, neighbouring windows overlap.
    Raises ValueError if not one window fits into tokens.
    """

    def __init__(
        self, tokens: Integer[np.ndarray, "tokens"], masking: Masking, context_length: int, batch_size: int, n: int
    ):
        self.batch_size = batch_size
        self._masking = masking
        self._windows = _windows(tokens, context_length)
        self._starts = spread(n * batch_size, len(self._windows)).reshape(n, batch_size)

    def __len__(self) -> int:
        return len(self._starts)

    def block(self, step: int, k: int) -> Block:
        """As Batches.block. Raises IndexError unless 0 <= step and step + k <= len(self)."""
        if step < 0 or step + k > len(self):
            raise IndexError(f"batches {step} to {step + k - 1}, expected 0 to {len(self) - 1}")
        keys = np.arange(step * self.batch_size, (step + k) * self.batch_size)[:, None]
        return self._masking.block(self._windows[self._starts[step : step + k]], (0, 0, _EVALUATION), keys)


def _windows(tokens: Integer[np.ndarray, "tokens"], context_length: int) -> Integer[np.ndarray, "windows length"]:
    require(context_length >= 3, "model.context_length", context_length, "3 or more: [CLS], a token, [SEP]")
    length = context_length - 2
    if len(tokens) < length:
        raise ValueError(f"data: found {len(tokens)} tokens, expected at least context_length - 2 = {length}")
    return np.lib.stride_tricks.sliding_window_view(tokens, length)


def _whole_words(
    continues: Bool[np.ndarray, "rows length"],
    special: Bool[np.ndarray, "rows length"],
    scores: Float64[np.ndarray, "rows length"],
    n: int,
) -> Int64[np.ndarray, "rows {n}"]:
    """The places of at most n tokens of each row, all or none of a word's; length where there are no more.

    Words are taken in the order of their scores, passing over those too long for what is left of n.
    """
    rows, length = scores.shape
    place = np.arange(length)
    begins = ~continues | special
    begins[:, 1:] |= special[:, :-1]
    word = np.maximum.accumulate(np.where(begins, place, 0), axis=1)  # where each token's word begins
    numbers = word + length * np.arange(rows)[:, None]
    sizes = np.bincount(numbers.ravel(), minlength=rows * length)[numbers]
    scores = np.where(special, np.inf, np.take_along_axis(scores, word, axis=1))
    order = np.argsort(scores, axis=1, kind="stable")  # stable: a word's tokens stay together and in order
    sizes, rest = (np.take_along_axis(x, order, axis=1) for x in (sizes, sizes - 1 - (place - word)))
    open_, taken = np.isfinite(np.take_along_axis(scores, order, axis=1)), np.zeros_like(special)
    left = np.full((rows, 1), n)
    while (open_ := open_ & (sizes <= left)).any():
        # Each pass takes the words up to the first that is too long for what those before it leave.
        takes = open_ & (np.cumsum(open_, axis=1) + rest <= left)
        taken, open_ = taken | takes, open_ & ~takes
        left = left - takes.sum(axis=1, keepdims=True)
    chosen = np.where(taken, order, length)
    return np.sort(chosen, axis=1)[:, :n]
