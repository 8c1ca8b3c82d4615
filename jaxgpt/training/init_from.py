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
from jaxgpt.model import declarations
from jaxgpt.pretrained import folder as checkpoint
from jaxgpt.pretrained.hub import find_folder
from jaxgpt.training.checkpoints import restore_params
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.directory import CHECKPOINTS, has_checkpoint, read_config

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
    goes_on = config.resume and has_checkpoint(Path(config.out))
    folder = Path(config.out) if goes_on else _find(config.init_from)
    log(f"init_from: model and tokenizer are those of {folder}; of --model.* only {', '.join(OWN)} are this run's")
    model = dataclasses.replace(_architecture(folder), **{name: getattr(config.model, name) for name in OWN})
    data = dataclasses.replace(config.data, tokenizer=f"saved:{config.init_from if goes_on else folder}")
    return dataclasses.replace(config, model=model, data=data)


def parameters(name: str, mesh: Mesh) -> PyTree[Array]:
    """The parameters of what init_from names, layers stacked, float32, each straight into its shards."""
    folder = _find(name)
    abstract = P.abstract(declarations(_architecture(folder)), mesh)
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


def _find(name: str) -> Path:
    try:
        return find_folder(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"init_from: {error}") from error


def _architecture(folder: Path) -> ModelConfig:
    if has_checkpoint(folder):
        return read_config(folder).model
    found = (folder / checkpoint.CONFIG).is_file()
    require(found, "init_from", f"no checkpoint in {folder}", "a run that has saved one, or a folder with config.json")
    return checkpoint.read_config(folder)[0]
