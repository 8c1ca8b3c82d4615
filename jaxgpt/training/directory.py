"""A run's directory: whose it is, and what may be done in it."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxgpt import tokenizers
from jaxgpt.checks import require
from jaxgpt.model import Settings
from jaxgpt.tokenizers import Tokenizer
from jaxgpt.tokenizers.base import read_object, write_whole
from jaxgpt.training.config import TrainConfig, build, differences, from_json, to_json
from jaxgpt.training.objectives import find

CONFIG_FILE = "train_config.json"
SETTINGS_FILE = "settings.json"
CHECKPOINTS = "checkpoints"


def read_config(folder: Path) -> TrainConfig:
    """The config of the run in `folder`. Raises FileNotFoundError where there is none, ValueError for a broken one."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: found no {CONFIG_FILE}, expected a run directory")
    try:
        return from_json(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def read_settings(folder: Path) -> Settings:
    """What the run in `folder` knows of its model's use, its classes' names. Raises ValueError for a broken file."""
    found = read_object(folder / SETTINGS_FILE)
    return build(Settings, found, str(folder / SETTINGS_FILE)) if found else Settings()


def write(folder: Path, config: TrainConfig, tokenizer: Tokenizer, settings: Settings) -> None:
    """Put all three where the readers of a run look for them, each whole or not at all.

    Of several processes the first does so, the others nothing.
    """
    if jax.process_index() > 0:
        return
    tokenizer.save(folder)
    write_whole(folder / SETTINGS_FILE, json.dumps(dataclasses.asdict(settings), indent=2))
    write_whole(folder / CONFIG_FILE, to_json(config))


def has_checkpoint(folder: Path) -> bool:
    """Whether the run in `folder` has saved something to go on from."""
    return any(path.name.isdigit() for path in (folder / CHECKPOINTS).glob("*"))


def claim(config: TrainConfig, log: Callable[[str], None] = print) -> Path:
    """The run directory, made if missing. One that holds another run is moved aside or refused, never overwritten.

    Raises ValueError naming the fields that differ, where its run has another config and config.resume is set; and
    where the run would start from itself.
    """
    folder = Path(config.out)
    if config.init_from is not None and Path(config.init_from).resolve() == folder.resolve():
        raise ValueError("init_from: found the run directory (out) itself, expected another run")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out: found the file {folder}, expected a folder or a new name")
    if not config.resume:
        if (folder / CONFIG_FILE).is_file() or has_checkpoint(folder):
            find(config.objective).look(config.data)  # an old run makes way only for one that can begin
            aside = next(p for i in range(1, 10**6) if not (p := folder.with_name(f"{folder.name}.{i}")).exists())
            folder.rename(aside)
            log(f"out: moved the run in {folder} to {aside}")
    elif has_checkpoint(folder):
        # The saved config's model has grown to its tokenizer's vocabulary; so must this one's before they compare.
        labels = read_settings(folder).labels
        different = differences(read_config(folder), settle(config, tokenizers.load(folder).vocab_size, labels))
        if different:
            raise ValueError(
                f"out: found a run of another config in {folder} ({'; '.join(different)}), expected the same config, "
                "another --out, or --no-resume to move it aside and start over"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settle(config: TrainConfig, vocab_size: int, labels: Sequence[str] = ()) -> TrainConfig:
    """The config whose model has room for every token of the tokenizer, and a head for the classes if there are any.

    Raises ValueError where the model comes from a checkpoint and has too little room, or is told another number of
    classes.
    """
    model = config.model
    if config.init_from is not None and vocab_size > model.vocab_size:
        expected = f"the tokenizer's {vocab_size}"
        raise ValueError(f"model.vocab_size: found {model.vocab_size} in {config.init_from}, expected {expected}")
    if labels:
        told = config.init_from is None and model.n_classes is not None
        require(
            not told or model.n_classes == len(labels), "model.n_classes", model.n_classes, f"{len(labels)}, or none"
        )
        model = dataclasses.replace(model, head="sequence", n_classes=len(labels))
    model = dataclasses.replace(model, vocab_size=max(model.vocab_size, vocab_size))
    return dataclasses.replace(config, model=model)
