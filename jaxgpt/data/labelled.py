"""Texts, or pairs of texts, with a label each: read, split so that every class is in both parts, batched by length."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from jaxgpt.checks import require
from jaxgpt.data.batches import Block
from jaxgpt.data.buckets import Examples
from jaxgpt.data.config import DataConfig
from jaxgpt.data.tables import Record, field_text, read_table, table_file

_NAMED = 5  # wrong records, before the rest is only counted


class Example(NamedTuple):
    """A text, what is read with it if anything, and its class."""

    place: str
    text: str
    pair: str | None
    label: str


class LabelledTexts(NamedTuple):
    """The two parts of a file, and the names of the classes, numbers in order, others by the alphabet."""

    train: list[Example]
    validation: list[Example]
    classes: tuple[str, ...]


def check_labelled(config: DataConfig) -> None:
    """Raise FileNotFoundError or ValueError for files that `read_labelled` could not read, having only looked."""
    table_file(config.path)
    if config.validation_path is not None:
        table_file(config.validation_path, "data.validation_path")


def read_labelled(config: DataConfig, seed: int, log: Callable[[str], None] = print) -> LabelledTexts:
    """The examples of config.path, those of validation_path or validation_fraction of them held out.

    What is held out is drawn (by seed) so that its classes have the shares of the whole. With config.whole it is drawn
    of the texts that are no part of another, and no part of one of these is trained on.
    Raises FileNotFoundError or ValueError, naming the setting or the place, for files, columns, texts and labels that
    can't be used: a label that is there once can't be in both parts.
    """
    examples = read_examples(config, config.path, "data.path", log)
    counts = Counter(example.label for example in examples)
    classes = tuple(sorted(counts, key=_place))
    require(len(classes) > 1, f"{config.path}: {config.label}", list(classes), "two classes or more")
    if config.validation_path is not None:
        held = read_examples(config, config.validation_path, "data.validation_path", log)
        for example in held:
            expected = f"one of the classes of {config.path}: {', '.join(classes)}"
            require(example.label in counts, f"{example.place}: {config.label}", example.label, expected)
        return LabelledTexts(examples, held, classes)
    for name, number in counts.items():
        if number == 1:
            place = next(example.place for example in examples if example.label == name)
            expected = "each class twice or more, to train on and to validate on"
            if place.endswith(", line 1"):
                expected += "; if this is a header, --data.text and --data.label name its columns"
            raise ValueError(f"{place}: {config.label}: found {name!r} once, expected {expected}")
    whole = whole_texts([example.text for example in examples]) if config.whole else np.arange(len(examples))
    held = whole[_stratified([examples[i].label for i in whole], config.validation_fraction, seed)]
    left = np.ones(len(examples), bool)
    left[held] = False
    if config.whole:
        parts = spans(examples[i].text for i in held)
        apart = np.array([_words(example.text) in parts for example in examples])
        log(f"data: {(left & apart).sum():,} texts left out, as they are parts of the {len(held):,} to validate on")
        left &= ~apart
    train = [examples[i] for i in np.flatnonzero(left)]
    validation = [examples[i] for i in sorted(held)]
    for purpose, part in (("train", train), ("validate", validation)):
        missing = ", ".join(sorted(set(classes) - {example.label for example in part}))
        require(
            missing == "",
            "data.validation_fraction",
            config.validation_fraction,
            f"one that leaves some texts of {missing} to {purpose} on",
        )
    return LabelledTexts(train, validation, classes)


def read_examples(
    config: DataConfig, path: str, setting: str = "data.path", log: Callable[[str], None] = print
) -> list[Example]:
    """All the examples of a file whose columns the config names. Raises as `read_labelled` does for what it reads."""
    file = table_file(path, setting)
    columns = {"data.text": config.text, "data.label": config.label}
    if config.text_pair is not None:
        columns = {"data.text": config.text, "data.text_pair": config.text_pair, "data.label": config.label}
    examples = [_example(record, config) for record in read_table(file, columns, log)]
    require(len(examples) > 0, setting, path, "a file with some records")
    empty = [example.place for example in examples if not example.text.strip() or not example.label]
    if empty:
        more = f" and {len(empty) - _NAMED} more" if len(empty) > _NAMED else ""
        raise ValueError(f"data: found an empty text or label in {'; '.join(empty[:_NAMED])}{more}, expected some")
    return examples


def balance(examples: Sequence[Example], classes: Sequence[str]) -> str:
    """How many texts there are of each class, for the reader."""
    counts = Counter(example.label for example in examples)
    return ", ".join(f"{name} {counts[name]:,} ({counts[name] / len(examples):.1%})" for name in classes)


def whole_texts(texts: Sequence[str]) -> Int64[np.ndarray, "whole"]:
    """Which texts are, word for word, no part of another; of equal ones the first."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].split()))
    seen: set[str] = set()
    whole = []
    for i in order:
        if _words(texts[i]) not in seen:
            whole.append(i)
            seen |= spans([texts[i]])
    return np.array(sorted(whole))


def spans(texts: Iterable[str]) -> set[str]:
    """Every run of words of the texts, the whole ones too."""
    found = set()
    for text in texts:
        words = text.split()
        found |= {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    return found


def _words(text: str) -> str:
    return " ".join(text.split())


def _place(name: str) -> tuple[bool, int, str]:
    """Of a class in the order of all."""
    number = re.fullmatch(r"-?[0-9]+", name) is not None
    return not number, int(name) if number else 0, name


def _example(record: Record, config: DataConfig) -> Example:
    label = record.fields[config.label]
    require(isinstance(label, str | int), f"{record.place}: {config.label}", label, "a text or a whole number")
    pair = None if config.text_pair is None else field_text(record, config.text_pair)
    return Example(record.place, field_text(record, config.text), pair, str(label).strip())


def _stratified(labels: Sequence[str], fraction: float, seed: int) -> Int64[np.ndarray, "held"]:
    """Which to hold out, each class by its share; one of a class whose share is none."""
    from sklearn.model_selection import train_test_split  # an extra, and slow to import

    try:
        _, held = train_test_split(np.arange(len(labels)), test_size=fraction, random_state=seed, stratify=labels)
        rare = set(labels) - {labels[i] for i in held}
        return np.array([*held, *(labels.index(name) for name in sorted(rare))])
    except ValueError as error:  # fewer to hold out than there are classes, say
        raise ValueError(f"data.validation_fraction: found {fraction}, expected one that fits: {error}") from error


@dataclass(frozen=True)
class Labelled(Examples):
    """Rows of texts, one or several each, for `BucketBatches`."""

    ids: list[list[int]]
    """Of each text."""
    segments: list[list[int]] | None
    """Which text of a pair each id is of; None where the model does not ask."""
    labels: Int64[np.ndarray, "texts"]
    shares: Float32[np.ndarray, "classes"]
    """What each class counts in the loss."""
    packs: list[list[int]]
    """The texts of each row."""
    last: bool
    """Whether a text's class is read at its last token, or at its first."""

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "rows 1"]:
        """As Examples.lengths."""
        return np.array([[sum(len(self.ids[i]) for i in pack)] for pack in self.packs])

    @cached_property
    def most(self) -> int:
        """Texts of the row that has most."""
        return max(map(len, self.packs))

    def gather(self, which: Int64[np.ndarray, "steps batch"], shape: tuple[int, ...]) -> Block:
        """As Examples.gather: "inputs", "texts" (1, 2, ... by text, 0 for padding) and perhaps "segments", [steps,
        batch, time]; "positions" where each text is read, "labels", "weights", [steps, batch, texts], 0 for none."""
        names = ["inputs", "texts", *(["segments"] if self.segments is not None else [])]
        block = {name: np.zeros((*which.shape, *shape), np.int32) for name in names}
        block |= {name: np.zeros((*which.shape, self.most), np.int32) for name in ("positions", "labels")}
        block["weights"] = np.zeros((*which.shape, self.most), np.float32)
        for place, row in np.ndenumerate(which):
            if row < 0:
                block["texts"][place][0] = 1  # a softmax over nothing is NaN
                continue
            at = 0
            for number, i in enumerate(self.packs[row]):
                span = slice(at, at + len(self.ids[i]))
                block["inputs"][place][span] = self.ids[i]
                block["texts"][place][span] = number + 1
                if self.segments is not None:
                    block["segments"][place][span] = self.segments[i]
                block["positions"][place][number] = span.stop - 1 if self.last else at
                block["labels"][place][number] = self.labels[i]
                block["weights"][place][number] = self.shares[self.labels[i]]
                at = span.stop
        return block


def shares(labels: Int64[np.ndarray, "examples"], classes: int, balanced: bool) -> Float32[np.ndarray, "{classes}"]:
    """1 for each class; balanced: n / (classes * n of the class), as scikit-learn's class_weight has it."""
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * counts) if balanced else np.ones(classes)).astype(np.float32)
