"""The objective of an encoder: the tokens that masks hide; and blanks that it fills in."""

import functools
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt import bert, data
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import Block
from jaxgpt.sharding import fetch
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.objectives import Objective, Task, check_length

SHOWN = 12  # blanks in a sample
GUESSES = 3
COUNTED = 1 << 24  # tokens counted at once
BESIDE = 12  # tokens shown on each side of a blank


class MaskedLM(Task):
    """Windows of a text. Raises ValueError where not one fits into a part, or the tokenizer has no [MASK]."""

    def __init__(self, config: TrainConfig, dataset: data.Dataset):
        loop, settings, length = config.train, config.data, config.model.context_length
        check_length(config, dataset.train, "training", -2)  # [CLS] and [SEP] are none of the text's
        check_length(config, dataset.validation, "validation", -2)
        masking = data.Masking.of(dataset.tokenizer, settings)
        self.tokenizer, self.identity = dataset.tokenizer, dataset.identity
        self.train = data.MaskedBatches(
            dataset.train, masking, length, loop.batch_size, loop.seed, settings.stride, settings.sampling
        )
        self._evaluations = {
            n: data.MaskedEvalBatches(dataset.validation, masking, length, loop.batch_size, n)
            for n in (loop.eval_batches, loop.final_eval_batches)
        }
        self._size, self._masking, self._validation = loop.eval_batches, masking, dataset.validation
        self._train = dataset.train

    def evaluation(self, n: int) -> Iterator[Block]:
        """Windows spread evenly over the validation part, with the same masks every time."""
        batches = self._evaluations[n]
        return (batches.block(at, min(self._size, len(batches) - at)) for at in range(0, len(batches), self._size))

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """The loss in nats a masked token, its perplexity, and the share of them that the likeliest token is.

        val_unigram_accuracy: that share where every guess is the training part's most common token.
        """
        loss = sums["nats"] / sums["weight"]
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700.0)),  # beyond, exp overflows
            "val_accuracy": sums["correct"] / sums["weight"],
            "val_unigram_accuracy": self._unigram_accuracy,
        }

    @cached_property
    def _unigram_accuracy(self) -> float:
        counts = np.zeros(len(self._masking.special), np.int64)
        for start in range(0, len(self._train), COUNTED):  # bincount copies what it counts, 8 bytes a token
            counts += np.bincount(self._train[start : start + COUNTED], minlength=len(counts))
        most_common = np.where(self._masking.special, 0, counts).argmax()
        blocks = list(self.evaluation(max(self._evaluations)))
        hits = sum(((block["targets"] == most_common) * block["weights"]).sum() for block in blocks)
        return float(hits / sum(block["weights"].sum() for block in blocks))

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """A dozen places of the validation part, each with a word hidden, and the likeliest tokens there."""
        rows, places, hidden = self._blanks(cfg.context_length - 2)
        known = np.zeros(cfg.vocab_size, bool)
        known[: len(self._masking.special)] = ~self._masking.special
        scores, ids = map(fetch, _likeliest(params, rows, places, known, cfg))
        decode, mask = self.tokenizer.decode, self.tokenizer.decode([self._masking.mask])
        lines = [f"--- blanks filled in after {step} steps: what stood there; the {GUESSES} likeliest ---"]
        for row, place, token, *best in zip(rows, places, hidden, scores, ids, strict=True):
            before, after = row[max(1, place - BESIDE) : place], row[place + 1 : place + 1 + BESIDE]
            guesses = "  ".join(f"{decode([guess])} {share:.0%}" for share, guess in zip(*best, strict=True))
            after = after[after != self._masking.sep]
            lines += [f"... {decode(before)} {mask} {decode(after)} ...", f"    {decode([token])};  {guesses}"]
        return "\n".join([*lines, "---"])

    def _blanks(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the validation part with one token masked each, where, and which it was: words of one token."""
        masking, continues = self._masking, self.tokenizer.continues
        part = np.zeros(len(masking.special), bool) if continues is None else continues
        starts = np.linspace(0, len(self._validation) - length, SHOWN).astype(int)
        windows = np.stack([self._validation[start : start + length] for start in starts]).astype(np.int32)
        whole = ~part[windows] & ~masking.special[windows]
        whole[:, :-1] &= ~part[windows[:, 1:]]
        letters = np.array([any(c.isalpha() for c in self.tokenizer.decode([i])) for i in np.unique(windows)])
        whole &= letters[np.searchsorted(np.unique(windows), windows)]
        distance = np.where(whole, np.abs(np.arange(length) - length // 2), length)
        places = distance.argmin(1) + 1
        rows = np.pad(windows, ((0, 0), (1, 1)), constant_values=((0, 0), (masking.cls, masking.sep)))
        each = np.arange(SHOWN)
        hidden = rows[each, places]
        rows[each, places] = masking.mask
        return rows, places, hidden


@functools.partial(jax.jit, static_argnames="cfg")
def _likeliest(params, rows, places, known, cfg: ModelConfig):
    """The probabilities and ids of the likeliest of the known tokens at one place of each row."""
    states = jnp.take_along_axis(bert.encode(params, rows, cfg), places[:, None, None], 1)
    logits = jnp.where(known, bert.head(params, states, cfg)[:, 0], -jnp.inf)
    return jax.lax.top_k(jax.nn.softmax(logits), GUESSES)


def _open(config: TrainConfig, cache: Path) -> MaskedLM:
    _require_mask(config.data)
    return MaskedLM(config, data.prepare(config.data, cache))


def _look(config: data.DataConfig) -> None:
    _require_mask(config)
    data.check(config)


def _require_mask(config: data.DataConfig) -> None:
    """Refuse by its name a tokenizer that has no [MASK]; what a file holds, `Masking.of` sees."""
    kind, expected = config.tokenizer.partition(":")[0], "one with [CLS], [SEP] and [MASK], as wordpiece"
    require(kind not in ("char", "word", "bpe", "tiktoken"), "data.tokenizer", config.tokenizer, expected)


OBJECTIVE = Objective(("encoder",), bert.declare, bert.loss, _open, _look, heads=("lm", "pretraining"))
