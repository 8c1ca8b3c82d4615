"""What a run begins with in place of fresh parameters: those of another run, or of a checkpoint of another library."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxgpt import params as P
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Settings, declarations
from jaxgpt.pretrained import folder as checkpoint
from jaxgpt.pretrained.hub import find_folder
from jaxgpt.pretrained.settings import class_names, generation_defaults
from jaxgpt.tokenizers.base import Tokenizer, read_object
from jaxgpt.training.checkpoints import restore_params
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.directory import CHECKPOINTS, has_checkpoint, read_config, read_settings
from jaxgpt.training.tuning import Tuning

# Of --model.*, what stays a run's own: its task, and how it is computed.
OWN = (
    "head", "n_classes", "pooler_activation", "dropout", "label_smoothing", "dtype", "attention", "scan_layers",
    "remat",
)  # fmt: skip


def adopt(config: TrainConfig, log: Callable[[str], None] = print) -> TrainConfig:
    """The config with the architecture and tokenizer of what init_from names; head and ways to compute stay.

    A run that goes on needs its own directory only. Raises FileNotFoundError or ValueError where init_from is neither a
    run that has saved a checkpoint nor a checkpoint's folder or repository.
    """
    if config.init_from is None:
        return config
    folder = _source(config)
    classifies = config.objective == "classification"
    own = [name for name in OWN if not (classifies and name in ("head", "n_classes", "pooler_activation"))]
    model = architecture(folder, "sequence" if classifies else None)
    model = dataclasses.replace(model, **{name: getattr(config.model, name) for name in own})
    log(f"init_from: model and tokenizer are those of {folder}; of --model.* only {', '.join(own)} are this run's")
    tokenizer = read_config(folder).data.tokenizer if folder == Path(config.out) else f"saved:{folder}"
    data = dataclasses.replace(config.data, tokenizer=tokenizer)
    return dataclasses.replace(config, model=model, data=data)


def architecture(folder: Path, head: str | None = None) -> ModelConfig:
    """The architecture of the model of a run or of a checkpoint's folder, as if it had this head (None: its own).

    Raises ValueError where the folder holds neither, or a config of no known family.
    """
    if has_checkpoint(folder):
        cfg = read_config(folder).model
        return cfg if head in (None, cfg.head) else dataclasses.replace(cfg, head=head, n_classes=2)
    found = (folder / checkpoint.CONFIG).is_file()
    require(found, "init_from", f"no checkpoint in {folder}", "a run that has saved one, or a folder with config.json")
    return checkpoint.read_config(folder, head)[0]


def parameters(name: str, mesh: Mesh | None) -> PyTree[Array]:
    """The parameters of what init_from names, layers stacked, float32, each straight into its shards."""
    folder = _find(name)
    abstract = P.abstract(declarations(architecture(folder)), mesh)
    if has_checkpoint(folder):
        return restore_params(folder / CHECKPOINTS, abstract)
    return checkpoint.read_params(folder, abstract)


def overlay(params: PyTree[Array], source: PyTree[Array], log: Callable[[str], None] = print) -> PyTree[Array]:
    """The parameters, with source's in place of those that have its name and shape; log is told of the others.

    Raises ValueError where there is none to take.
    """
    mine, theirs = (traverse_util.flatten_dict(tree, sep="/") for tree in (params, source))
    taken = {name: x for name, x in theirs.items() if name in mine and x.shape == mine[name].shape}
    if not taken:
        found = f"found {', '.join(theirs)}, none of them a parameter of this model"
        raise ValueError(f"init_from: {found}, expected a run whose model shares some")
    for what, names in (("starting anew", mine.keys() - taken.keys()), ("left unused", theirs.keys() - taken.keys())):
        if names:
            log(f"init_from: {what}: {', '.join(sorted(names))}")
    return traverse_util.unflatten_dict(mine | taken, sep="/")


def frozen(name: str, declarations: P.Declarations, tuning: Tuning, mesh: Mesh | None = None) -> PyTree[Array]:
    """The parameters that a run does not train. Raises ValueError where init_from has not all of them."""
    source = traverse_util.flatten_dict(parameters(name, mesh), sep="/")
    declared = traverse_util.flatten_dict(declarations, sep="/")
    needed = traverse_util.flatten_dict(tuning.frozen(declarations), sep="/").keys()
    for path in needed:
        found = source[path].shape if path in source else "nothing"
        require(
            found == declared[path].shape, f"init_from: {path}", found, f"{declared[path].shape}, as it is not trained"
        )
    return tuning.frozen(traverse_util.unflatten_dict({path: source.get(path) for path in declared}, sep="/"))


def settings(config: TrainConfig, labels: tuple[str, ...]) -> Settings:
    """What a run knows of its model's use: how text is made, as init_from says, and the names of its classes."""
    if config.init_from is None:
        return Settings(labels=labels)
    if config.resume and has_checkpoint(Path(config.out)):
        return read_settings(Path(config.out))
    folder = _find(config.init_from)
    if has_checkpoint(folder):
        return dataclasses.replace(read_settings(folder), labels=labels)
    fields = read_object(folder / checkpoint.CONFIG)
    return Settings(generation=generation_defaults(folder, fields), labels=labels)


def tokenizer_name(config: TrainConfig) -> str:
    """What `tokenizers.create` takes: as the config says, but a run that goes on has its own, and needs no other
    directory for it."""
    return f"saved:{config.out}" if has_checkpoint(Path(config.out)) else config.data.tokenizer


def end_tokens(config: TrainConfig, tokenizer: Tokenizer) -> set[int]:
    """The ids that end an answer: those of init_from, and the tokenizer's end-of-text."""
    return {*settings(config, ()).generation.end_tokens, tokenizer.end_of_text} - {None}


def same_classes(config: TrainConfig, classes: tuple[str, ...], log: Callable[[str], None] = print) -> tuple[str, ...]:
    """The classes in the order of init_from's head, where it has one for them and keeps it.

    Raises ValueError where its head is for others.
    """
    if config.init_from is None or config.train.new_head:
        return classes
    folder = _source(config)
    cfg = architecture(folder)
    if cfg.head != "sequence":
        return classes
    names = (
        read_settings(folder).labels if has_checkpoint(folder) else class_names(read_object(folder / checkpoint.CONFIG))
    )
    expected = f"init_from's {', '.join(names) or cfg.n_classes}, or --train.new_head to begin its head anew"
    if names == tuple(f"LABEL_{i}" for i in range(cfg.n_classes)) or not names:
        require(len(classes) == cfg.n_classes, "data.label: classes", list(classes), expected)
        log(f"init_from: its classes have no names; they are taken to be {', '.join(classes)}, in this order")
        return classes
    require(set(classes) == set(names), "data.label: classes", list(classes), expected)
    return names


def _source(config: TrainConfig) -> Path:
    """What init_from names, or the run's own directory where it goes on."""
    goes_on = config.resume and has_checkpoint(Path(config.out))
    return Path(config.out) if goes_on else _find(config.init_from)


def _find(name: str) -> Path:
    try:
        return find_folder(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"init_from: {error}") from error
