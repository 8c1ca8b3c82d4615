"""What text to learn from, how it becomes tokens, and how windows are drawn from it."""

from dataclasses import dataclass
from typing import Literal, get_args

Sampling = Literal["random", "epochs"]


@dataclass(frozen=True)
class DataConfig:
    """The text, its tokenizer and its sampling; a wrong value raises ValueError here."""

    path: str = "python"
    """A text file, a .jsonl file (field "text"), either of them as .gz, a folder, a glob, or "python": the source of
    Python's own standard library."""
    validation_path: str | None = None
    """Text to validate on, in any form that path takes; None: hold out validation_fraction of path."""
    validation_fraction: float = 0.1
    """Share of path held out: the end of each document, or every k-th document where there are many. Not used with
    validation_path."""
    tokenizer: str = "bpe"
    """"char", "word", "bpe" (trained on the training part), "tiktoken:<encoding>", "json:<path>", or "saved:<folder>",
    a run directory's."""
    vocab_size: int = 1024
    """Size of a tokenizer that is trained."""
    sampling: Sampling = "random"
    """"random": windows start anywhere, drawn with replacement; "epochs": every window once before any again."""
    stride: int | None = None
    """Tokens between the starts of neighbouring windows; None: 1 for "random", context_length for "epochs"."""

    def __post_init__(self):
        if not self.path:
            raise ValueError("data.path: found an empty path, expected a file, a folder, a glob or 'python'")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: found {self.validation_fraction}, expected a number in (0, 1)")
        if self.vocab_size < 1:
            raise ValueError(f"data.vocab_size: found {self.vocab_size}, expected a positive integer")
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"data.sampling: found {self.sampling!r}, expected one of {get_args(Sampling)}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"data.stride: found {self.stride}, expected None or a positive integer")
