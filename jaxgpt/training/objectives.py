"""What a run minimises, and on what: one pair of interfaces, and the table of the objectives that have it."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.data import DataConfig
from jaxgpt.data.batches import Batches, Block
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.training.config import TrainConfig, TuneConfig

# Where each one's OBJECTIVE is. Imported when asked for: a run needs what its own objective does.
MODULES = {
    "causal_lm": "jaxgpt.training.causal_lm",
    "classification": "jaxgpt.training.classification",
    "instruction": "jaxgpt.training.instruction",
    "masked_lm": "jaxgpt.training.masked_lm",
    "preference": "jaxgpt.training.preference",
    "seq2seq": "jaxgpt.training.seq2seq",
}

# Settings that not every objective reads, and those that do.
READERS = dict.fromkeys(("data.sampling", "data.stride"), ("causal_lm", "masked_lm"))
READERS |= dict.fromkeys(("data.mask_rate", "data.whole_word"), ("masked_lm",))
READERS |= dict.fromkeys(("data.source", "data.target"), ("seq2seq",))
READERS |= dict.fromkeys(
    ("data.run_length", "data.buckets"), ("seq2seq", "classification", "instruction", "preference")
)
LABELLED = ("data.text", "data.text_pair", "data.label", "data.balanced", "data.whole")
READERS |= dict.fromkeys((*LABELLED, "train.new_head"), ("classification",))
READERS |= dict.fromkeys(("data.too_long", "data.pack", "data.pack_length"), ("classification", "instruction"))
READERS |= dict.fromkeys(("data.learn", "data.test_fraction"), ("instruction",))
READERS |= {"data.style": ("instruction", "preference"), "data.beta": ("preference",)}
READERS |= {"train.sample_prompt": ("causal_lm",), "train.sample_tokens": ("causal_lm", "instruction")}


class Task(ABC):
    """A run's data, and what only its objective knows of them."""

    tokenizer: Tokenizer
    identity: str
    """A hash of tokenizer and data: the same for the same, wherever and whenever they were made."""
    train: Batches
    shows_first: bool = False
    """Whether what the model could do before its first step is told, too."""
    labels: tuple[str, ...] = ()
    """The names of the classes, where there are any."""

    @abstractmethod
    def evaluation(self, n: int) -> Iterator[Block]:
        """n batches or a few more, the same ones every time, in blocks [k, batch, ...] of few shapes: each compiles."""

    @abstractmethod
    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """What an evaluation tells, "val_loss" and more, from the loss's sums over all of its batches."""

    @abstractmethod
    def show(self, params: Any, cfg: ModelConfig, step: int) -> str:
        """What the model can do after so many steps, for the reader. Depends on nothing else."""

    def score(self, params: Any, cfg: ModelConfig, *, last: bool) -> dict[str, float]:
        """More of what an evaluation tells, that takes decoding; last: the one at the end of the run."""
        return {}

    def rank(self, row: dict[str, float]) -> float:
        """A number that is lower for better parameters, from what an evaluation told of them."""
        return row["val_loss"]

    def draw(self, folder: Path) -> None:  # noqa: B027
        """Put pictures of the last evaluation, beside the losses, into the folder."""

    def check(self, config: TrainConfig) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise ValueError for what a settled config asks for and can't have, before any work."""

    def flops_per_token(self, cfg: ModelConfig) -> int | None:
        """Floating-point operations of a training step for each of train.tokens; None: not known."""
        return None


@dataclass(frozen=True)
class Objective:
    """An architecture's declarations and loss, and the data that they take."""

    architectures: tuple[str, ...]
    """The values of ModelConfig.architecture that it trains."""
    declare: Callable
    """declare(cfg) -> the tree of `Param`."""
    loss: Callable
    """loss(params, batch, cfg, *, key) -> (mean, sums): sums["weight"] divided the mean; evaluations add sums up."""
    open: Callable[[TrainConfig, Path], Task]
    """open(config, cache) -> the task, from the folder `cache` if it is there, whole and up to date, else built there.
    Raises FileNotFoundError or ValueError for data that can't be used."""

    look: Callable[[DataConfig], None]
    """Raises what `open` would for the files and the tokenizer that are named, having only looked for them."""
    heads: tuple[str, ...] = ("lm",)
    """The values of ModelConfig.head that have its loss."""

    def check(self, config: TrainConfig) -> None:
        """Raise ValueError for a model of another architecture or head, and for a setting that is not read or lacks
        what it needs."""
        which = f"as objective={config.objective!r}"
        found, known = config.model.architecture, " or ".join(map(repr, self.architectures))
        require(found in self.architectures, "model.architecture", found, f"{known}, which {which[3:]} trains")
        require(
            config.model.head in self.heads,
            "model.head",
            config.model.head,
            f"{' or '.join(self.heads)}, {which} trains it",
        )
        expected = "a model, as tune says to train a part of one"
        require(config.tune == TuneConfig() or config.init_from is not None, "init_from", config.init_from, expected)
        for name, readers in READERS.items():
            section, _, field = name.partition(".")
            values = getattr(config, section)
            found, default = getattr(values, field), getattr(type(values), field)
            read = config.objective in readers
            require(read or found == default, name, found, f"{default!r}, {which} does not read it")


def check_length(config: TrainConfig, tokens: np.ndarray, part: str, more: int) -> None:
    """Raise ValueError where a part of the text has fewer tokens than a window: context_length and `more`."""
    shortest = config.model.context_length + more
    if len(tokens) < shortest:
        own = part == "validation" and config.data.validation_path is not None
        raise ValueError(
            f"data.{'validation_path' if own else 'path'}: found {len(tokens)} tokens in the {part} part, "
            f"expected at least model.context_length {'+' if more > 0 else '-'} {abs(more)} = {shortest}"
        )


def find(name: str) -> Objective:
    """The objective of that name. Raises ValueError, with the nearest name, where there is none."""
    require(name in MODULES, "objective", name, nearest(name, MODULES))
    return importlib.import_module(MODULES[name]).OBJECTIVE
