"""Models from disk: `load` opens the directory of a run."""

from pathlib import Path

from jaxgpt import params as P
from jaxgpt import tokenizers
from jaxgpt.config import require
from jaxgpt.model import Model, declarations
from jaxgpt.training.checkpoints import restore_params
from jaxgpt.training.directory import CHECKPOINTS, read_config


def load(path: str | Path) -> Model:
    """The model of a run directory: its best checkpoint's parameters and its tokenizer.

    Raises FileNotFoundError where `path` is no run directory or holds no whole checkpoint, ValueError
    where the tokenizer has ids that the model lacks.
    """
    folder = Path(path)
    cfg = read_config(folder).model
    tokenizer = tokenizers.load(folder)
    require(
        tokenizer.vocab_size <= cfg.vocab_size,
        f"{folder}: tokenizer.vocab_size",
        tokenizer.vocab_size,
        f"at most model.vocab_size={cfg.vocab_size}",
    )
    return Model(cfg, restore_params(folder / CHECKPOINTS, P.abstract(declarations(cfg))), tokenizer)
