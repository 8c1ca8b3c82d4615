"""The objective of a model that tells classes: those of labelled texts; accuracy, F1, which it takes for which."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt import bert, data, gpt, tokenizers
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.data import buckets, packing
from jaxgpt.data.batches import Block
from jaxgpt.data.labelled import Example, balance, shares
from jaxgpt.model import declarations
from jaxgpt.rows import framed
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.training import init_from
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.objectives import Objective, Task
from jaxgpt.training.plot import plot_confusion

CELLS = 20  # of `BucketBatches`


class Classification(Task):
    """Labelled texts. Raises ValueError where too_long leaves none of a part, or their classes are not init_from's."""

    def __init__(self, config: TrainConfig, tokenizer: Tokenizer, texts: data.LabelledTexts):
        loop, settings = config.train, config.data
        self.tokenizer, self.labels = tokenizer, init_from.same_classes(config, texts.classes)
        for part, examples in (("training", texts.train), ("validation", texts.validation)):
            print(f"data: {len(examples):,} {part} texts: {balance(examples, self.labels)}")
        train = self._encoded(config, texts.train, settings.balanced)
        self._validation = self._encoded(config, texts.validation, False)  # what is counted weighs 1
        self._loop, self._buckets = loop, packing.shapes(train, settings)
        self.train = data.BucketBatches(train, loop.batch_size, loop.seed, settings.run_length, self._buckets, CELLS)
        self.texts_per_batch = loop.batch_size * len(train.ids) / len(train.packs)
        if settings.pack:
            rows = f"{len(train.packs):,} rows of {packing.row_length(settings, config.model.context_length)} tokens"
            print(f"data: packed into {rows}, {self.texts_per_batch:.1f} texts a batch")
        print(f"data: {self.train.padding():.1%} of the batches is padding")
        self._confusion = np.zeros((len(self.labels), len(self.labels)))
        read = [train.ids, train.packs, train.labels.tolist(), train.shares.tolist()]
        read = [tokenizer.special_tokens, self.labels, *read]
        self.identity = hashlib.sha256(json.dumps(read).encode()).hexdigest()

    def evaluation(self, n: int) -> Iterator[Block]:
        """All the validation texts, whatever n."""
        return buckets.evaluation(self._validation, self._loop.batch_size, self._buckets)

    def metrics(self, sums: dict[str, Any]) -> dict[str, float]:
        """The loss in nats a text, accuracy, and the mean of the classes' F1: 2 p r / (p + r), precision and recall."""
        self._confusion = sums["confusion"]
        report = self._report(output_dict=True)
        return {
            "val_loss": float(sums["nats"] / sums["weight"]),
            "val_accuracy": float(sums["correct"] / sums["weight"]),
            "val_macro_f1": report["macro avg"]["f1-score"],
        }

    def rank(self, row: dict[str, float]) -> float:
        """By macro-F1, which a class that is rare counts in as much as another; of equals by the loss."""
        return -row["val_macro_f1"] + 1e-6 * row["val_loss"]

    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """Precision, recall and F1 of each class, at the last evaluation."""
        most = self._confusion.sum(1).max() / self._confusion.sum()
        baseline = f"the most common class alone: accuracy {most:.4f}"
        return f"--- classes after {step} steps; {baseline} ---\n{self._report(digits=4).rstrip()}\n---"

    def draw(self, folder: Path) -> None:
        """confusion.png."""
        plot_confusion(self._confusion, self.labels, folder / "confusion.png")

    def _report(self, **options: Any) -> Any:
        from sklearn.metrics import classification_report  # an extra, and slow to import

        counts = np.rint(self._confusion).astype(int)
        real, taken = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
        numbers = range(len(self.labels))
        return classification_report(
            real, taken, labels=numbers, target_names=self.labels, zero_division=0.0, **options
        )

    def _encoded(self, config: TrainConfig, examples: Sequence[Example], balanced: bool) -> data.Labelled:
        """The examples as ids; those that are too long as data.too_long says, which is told."""
        model, settings = config.model, config.data
        texts = [one.text if one.pair is None else (one.text, one.pair) for one in examples]
        rows, segments, shorter = framed(self.tokenizer, texts, model.context_length, model.context_length)
        kept = range(len(rows))
        if shorter:
            done = "cut" if settings.too_long == "cut" else "left out"
            print(f"data: {len(shorter):,} texts of more than {model.context_length} tokens {done}")
            if settings.too_long == "drop":
                kept = sorted(set(kept) - set(shorter))
                lost = {one.label for one in examples} - {examples[i].label for i in kept}
                require(not lost, "data.too_long", "drop", f"cut, as it leaves no text of {', '.join(sorted(lost))}")
        numbers = {name: number for number, name in enumerate(self.labels)}
        labels = np.array([numbers[examples[i].label] for i in kept])
        ids, encoder = [rows[i] for i in kept], model.architecture == "encoder"
        return data.Labelled(
            ids,
            [segments[i] for i in kept] if encoder and model.n_segments > 1 else None,
            labels,
            shares(labels, len(self.labels), balanced),
            packing.rows([len(row) for row in ids], settings, model.context_length),
            last=not encoder,
        )


def loss(params: dict, batch: dict, cfg: ModelConfig, *, key: Any = None) -> Any:
    """That of the architecture: `gpt.loss` or `bert.loss`."""
    return (gpt if cfg.architecture == "decoder" else bert).loss(params, batch, cfg, key=key)


def _open(config: TrainConfig, cache: Path) -> Classification:
    name = init_from.tokenizer_name(config)
    _look(dataclasses.replace(config.data, tokenizer=name))
    texts = data.read_labelled(config.data, config.train.seed)
    # A character tokenizer has no way to spell what it has not seen; a trained one must not see what is held out.
    seen = [*texts.train, *(texts.validation if name == "char" else [])]
    words = [text for one in seen for text in (one.text, one.pair) if text is not None]
    return Classification(config, tokenizers.create(name, lambda: words, config.data.vocab_size), texts)


def _look(config: data.DataConfig) -> None:
    expected = "scikit-learn, which splits and measures: pip install 'jaxgpt[classification]'"
    require(find_spec("sklearn") is not None, "objective", "classification", expected)
    tokenizers.check(config.tokenizer, "data.tokenizer")
    data.check_labelled(config)


OBJECTIVE = Objective(("decoder", "encoder"), declarations, loss, _open, _look, heads=("lm", "sequence"))
