"""What text to learn from, how it becomes tokens, and how windows are drawn from it."""

from dataclasses import dataclass
from typing import Literal

from jaxgpt import tokenizers
from jaxgpt.checks import check_types, require
from jaxgpt.data.sources import files
from jaxgpt.tokenizers import bpe, wordpiece

Sampling = Literal["random", "epochs"]


@dataclass(frozen=True)
class DataConfig:
    """The text, its tokenizer and its sampling; a wrong value raises ValueError here."""

    path: str = "python"
    """A text file, a .jsonl file (field "text"), either of them as .gz, a folder, a glob, or "python": the source of
    Python's own standard library. Pairs: a .tsv (source TAB target), a .jsonl, what the names of two files begin with
    (DIR/train for DIR/train.de and DIR/train.en), or the folder DIR alone, whose val, valid or dev is validated on;
    each as .gz too. Labelled texts: a .csv, .tsv, .jsonl, .json, each as .gz too, or .parquet, with named columns."""
    validation_path: str | None = None
    """Text to validate on, in any form that path takes; None: hold out validation_fraction of path."""
    validation_fraction: float = 0.1
    """Share of path held out: the end of each document, or every k-th document where there are many. Not used with
    validation_path."""
    tokenizer: str = "bpe"
    """"char", "word", "bpe", "wordpiece", "wordpiece:cased" (trained on the training part), "tiktoken:<encoding>",
    "vocab:<path>" or "vocab:cased:<path>" (a BERT vocab.txt), "json:<path>", or "saved:<folder>", a run directory's."""
    vocab_size: int = 1024
    """Size of a tokenizer that is trained."""
    sampling: Sampling = "random"
    """"random": windows start anywhere, drawn with replacement; "epochs": every window once before any again."""
    stride: int | None = None
    """Tokens between the starts of neighbouring windows; None: 1 for "random", context_length for "epochs"."""
    source: str = "source"
    """Pairs: the language to translate from, as the ending of its file (de) or its field in a .jsonl."""
    target: str = "target"
    """Pairs: the language to translate into, named likewise."""
    run_length: int = 10
    """Pairs, labelled texts and conversations: steps in a row whose batches have one shape."""
    buckets: int = 6
    """Pairs, labelled texts and conversations: how many shapes batches have; examples of like lengths share one. Packed
    rows have one, but for those that are longer than pack_length."""
    mask_rate: float = 0.15
    """Masked tokens: share of a row to be guessed."""
    whole_word: bool = False
    """Masked tokens: mask all pieces of a word together."""
    text: str = "text"
    """Labelled texts: the column of the texts."""
    text_pair: str | None = None
    """Labelled texts: the column of what is read with each (a premise's hypothesis, say), if there is one."""
    label: str = "label"
    """Labelled texts: the column of their classes."""
    balanced: bool = False
    """Labelled texts: weigh each class in the loss by the inverse of its share."""
    whole: bool = False
    """Labelled texts: hold out such as are no part of another one, and train on none of their parts (SST-2, whose texts
    are sentences and phrases of them)."""
    too_long: Literal["cut", "drop"] = "cut"
    """Labelled texts and conversations: what becomes of one that is longer than the model reads. A conversation that is
    cut before its first answer is dropped."""
    style: Literal["alpaca", "chatml", "phi3"] | None = None
    """Conversations: how they are written (None: by the tokenizer's chat template; where it has none, as alpaca)."""
    learn: Literal["answers", "all"] = "answers"
    """Conversations: which tokens are learnt."""
    pack: bool = True
    """Conversations and labelled texts: put several into one row, none of which sees another; otherwise one a row,
    those of like lengths together."""
    pack_length: int | None = None
    """With pack: tokens of a row, at most as many as the model reads (None: so many); what is longer has a row of its
    own."""
    beta: float = 0.1
    """Pairs of answers: how much staying near the model that is begun with weighs (Rafailov et al. 2023)."""
    test_fraction: float = 0.0
    """Conversations: share of path that is kept for a test, in the run's data/test.jsonl."""

    def __post_init__(self):
        check_types(self, "data")
        require(self.path != "", "data.path", self.path, "a file, a folder, a glob or 'python'")
        fraction = self.validation_fraction
        require(0 < fraction < 1, "data.validation_fraction", fraction, "a number in (0, 1)")
        require(self.beta > 0, "data.beta", self.beta, "a number above 0")
        left = 1 - fraction
        require(0 <= self.test_fraction < left, "data.test_fraction", self.test_fraction, f"a number in [0, {left})")
        require(self.vocab_size >= 1, "data.vocab_size", self.vocab_size, "a positive integer")
        for kind, smallest, holds in (
            ("bpe", bpe.SMALLEST, "every byte and end-of-text"),
            ("wordpiece", wordpiece.SMALLEST, "the special tokens and a character"),
        ):
            trained, expected = self.tokenizer.partition(":")[0] == kind, f"at least {smallest}, {holds}, for a {kind}"
            require(not trained or self.vocab_size >= smallest, "data.vocab_size", self.vocab_size, expected)
        most = self.pack_length
        require(most is None or most >= 1, "data.pack_length", most, "a positive integer or None")
        require(self.stride is None or self.stride >= 1, "data.stride", self.stride, "a positive integer or None")
        for name in ("source", "target"):
            require(getattr(self, name) != "", f"data.{name}", "", "a file's ending or a .jsonl's field")
        require(self.source != self.target, "data.target", self.target, f"another than data.source={self.source!r}")
        for name in ("run_length", "buckets"):
            require(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "a positive integer")
        for name in ("text", "text_pair", "label"):
            require(getattr(self, name) != "", f"data.{name}", "", "the name of a column")
        require(len({self.text, self.text_pair, self.label}) == 3, "data.label", self.label, "another than the texts'")
        require(0 < self.mask_rate < 1, "data.mask_rate", self.mask_rate, "a number in (0, 1)")


def check(config: DataConfig) -> None:
    """Raise what `prepare` would for the files and the tokenizer that the config names, having only looked for them.

    FileNotFoundError for what is not there, ValueError for a tokenizer of no known name and for what holds no text.
    """
    tokenizers.check(config.tokenizer, "data.tokenizer")
    files(config.path)
    if config.validation_path is not None:
        files(config.validation_path, "data.validation_path")
