"""Models from disk: `load` opens the directory of a run."""

from pathlib import Path

from jaxgpt import gpt, tokenizers
from jaxgpt import params as P
from jaxgpt.model import Model
from jaxgpt.training.checkpoints import restore_params
from jaxgpt.training.directory import CHECKPOINTS, read_config


def load(path: str | Path) -> Model:
    """The model of a run directory: its best checkpoint's parameters and its tokenizer.

    Raises FileNotFoundError where `path` is no run directory or holds no whole checkpoint.
    """
    folder = Path(path)
    cfg = read_config(folder).model
    tokenizer = tokenizers.load(folder)
    return Model(cfg, restore_params(folder / CHECKPOINTS, P.abstract(gpt.declare(cfg))), tokenizer)
