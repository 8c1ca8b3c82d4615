"""The objective of an encoder-decoder: each token of a translation from its source and the tokens before it; BLEU."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt import data, seq2seq
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.data import buckets
from jaxgpt.data.batches import Block
from jaxgpt.data.pair_files import read_pairs
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.objectives import Objective, Task
from jaxgpt.translation import bleu, translate_tokens

BEAM = 4  # of the evaluation at the end; those on the way are greedy, a quarter of the work
SHOWN = 4  # translations in a sample


class Translation(Task):
    """Pairs of texts. Raises ValueError for one that is longer than the model's context."""

    def __init__(self, config: TrainConfig, dataset: data.PairDataset):
        loop, settings = config.train, config.data
        data.check_lengths(dataset, config.model.context_length)
        self.tokenizer, self.identity = dataset.tokenizer, dataset.identity
        self.train = data.BucketBatches(
            dataset.train, loop.batch_size, loop.seed, settings.run_length, settings.buckets
        )
        print(f"data: {self.train.padding():.0%} of the batches is padding")
        self._loop, self._buckets, self._validation = loop, settings.buckets, dataset.validation
        self._references = _references(dataset.validation)

    def evaluation(self, n: int) -> Iterator[Block]:
        """All the validation pairs, whatever n: BLEU is of a whole text."""
        return buckets.evaluation(self._validation, self._loop.batch_size, self._buckets)

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """The loss in nats a token without label smoothing, its perplexity, and the share of tokens guessed right."""
        loss = sums["nats"] / sums["weight"]
        return {
            "val_loss": loss,
            "val_perplexity": math.exp(min(loss, 700.0)),  # beyond, exp overflows
            "val_accuracy": sums["correct"] / sums["weight"],
        }

    def score(self, params: Any, cfg: ModelConfig, *, last: bool) -> dict[str, float]:
        """BLEU of the validation part, translated greedily, or at the end of the run by a beam of 4."""
        source = self._validation.source
        found = self._translate(params, cfg, [source[i] for i in range(len(source))], BEAM if last else 1)
        return {"val_bleu": bleu(found, self._references)[0]}

    def rank(self, row: dict[str, float]) -> float:
        """By BLEU: translations go on getting better when the loss, too sure of itself, is rising again."""
        return -row["val_bleu"]

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """A few validation sentences, their translation by people and by the model; how BLEU was counted."""
        chosen = np.linspace(0, len(self._validation) - 1, SHOWN).astype(int)
        sources = [self._validation.source[i] for i in chosen]
        found = self._translate(params, cfg, sources, BEAM)
        lines = [f"--- translations after {step} steps ---"]
        for i, source, text in zip(chosen, sources, found, strict=True):
            lines += [f"source     {self._text(source)}", f"reference  {self._references[i]}", f"model      {text}", ""]
        signature = bleu(found, [self._references[i] for i in chosen])[1]  # of no score but of how it is counted
        return "\n".join([*lines[:-1], f"--- BLEU: {signature}"])

    def _translate(self, params: Any, cfg: ModelConfig, sources: list[np.ndarray], beam: int) -> list[str]:
        end = self.tokenizer.end_of_text
        rows = [source.tolist() for source in sources]
        targets = translate_tokens(params, rows, cfg, start=end, end=end, beam=beam, ids=self.tokenizer.ids)
        return [self._text(target) for target in targets]

    def _text(self, tokens: list[int] | np.ndarray) -> str:
        end = self.tokenizer.end_of_text
        return self.tokenizer.decode(token for token in tokens if token != end)


def _references(pairs: data.Pairs) -> list[str]:
    """The targets as people wrote them: not every tokenizer gives back the text that it was given."""
    texts = [pair.target for pair in read_pairs(pairs.files)]
    return [texts[number] for number in pairs.numbers]


def _open(config: TrainConfig, cache: Path) -> Translation:
    _require_sacrebleu()
    return Translation(config, data.prepare_pairs(config.data, cache))


def _look(config: data.DataConfig) -> None:
    _require_sacrebleu()
    data.check_pairs(config)


def _require_sacrebleu() -> None:
    expected = "sacrebleu, which measures its validation: pip install 'jaxgpt[translation]'"
    require(find_spec("sacrebleu") is not None, "objective", "seq2seq", expected)


OBJECTIVE = Objective(("encoder-decoder",), seq2seq.declare, seq2seq.loss, _open, _look)
