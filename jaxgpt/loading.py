"""Models from disk, of a run's directory or a checkpoint's folder, and to it: `load` and `save`."""

import os
from dataclasses import replace
from pathlib import Path

from jax.sharding import Mesh

from jaxgpt import params as P
from jaxgpt import tokenizers
from jaxgpt.checks import require
from jaxgpt.finetuning import lora, peft
from jaxgpt.model import Model, by_layer, declarations
from jaxgpt.pretrained.folder import SHARD_BYTES, read_model, write_model
from jaxgpt.pretrained.hub import find_folder
from jaxgpt.tokenizers.base import read_object
from jaxgpt.training import init_from, tuning
from jaxgpt.training.checkpoints import restore_params
from jaxgpt.training.config import TrainConfig, TuneConfig
from jaxgpt.training.directory import CHECKPOINTS, CONFIG_FILE, has_checkpoint, read_config, read_settings


def load(path: str | Path, *, dtype: str | None = None, mesh: Mesh | None = None, revision: str | None = None) -> Model:
    """The model of a run directory, of a folder in Hugging Face's layout, or of a repository of the hub.

    A folder with PEFT's adapter_config.json, and no model of its own, is the model it names with the adapter merged.
    A run's parameters are those of its best checkpoint. Layers come as a tuple, one tree each.
    dtype: float32, bfloat16 or float16, of parameters and activations (None: as they were saved). mesh: where the
    parameters go, each device's part straight from the file (None: to one device). revision: of a repository.
    Raises FileNotFoundError where there is no model, ValueError for one that is damaged, of no known family
    or would not be computed as its config says: see `pretrained.folder.read_model`.
    """
    require(dtype in (None, "float32", "bfloat16", "float16"), "dtype", dtype, "float32, bfloat16 or float16")
    folder = find_folder(path, revision)
    exported = (folder / "config.json").is_file()
    # The files of a run that trained a part of a model are whole, its checkpoints need that model.
    if has_checkpoint(folder) and not (exported and read_config(folder).tune != TuneConfig()):
        return _read_run(folder, dtype, mesh)
    if (folder / peft.CONFIG).is_file() and not exported:
        return _read_adapted(folder, dtype, mesh)
    if (folder / CONFIG_FILE).is_file() and not exported:
        raise FileNotFoundError(f"{folder}: found a run without a checkpoint, expected one that has saved its first")
    return read_model(folder, dtype=dtype, mesh=mesh)


def save(model: Model, path: str | Path, *, max_shard_bytes: int = SHARD_BYTES) -> None:
    """Write the model into a folder that `load`, transformers and others open: config, safetensors, tokenizer.

    max_shard_bytes: above it, the weights become several files. The directory of a run is refused: see `export`.
    Raises ValueError, before anything is written, for an architecture that no family of checkpoints expresses, naming
    the fields that stand in the way.
    """
    folder = Path(path)
    require(not has_checkpoint(folder), "path", os.fspath(path), "another folder than that of a run")
    write_model(model, folder, max_shard_bytes=max_shard_bytes)


def export(
    run: str | Path, out: str | Path | None = None, *, mesh: Mesh | None = None, max_shard_bytes: int = SHARD_BYTES
) -> str:
    """Make a run directory a folder of Hugging Face's layout too (or write one to `out`); returns its family's name.

    What `load` finds in the run: the parameters of its best checkpoint, on the mesh on their way. The adapter of a run
    that trained one is merged, and lies in the folder `adapter` as PEFT's. Raises as `save`.
    """
    folder = Path(run)
    require(has_checkpoint(folder), "run", os.fspath(run), "the directory of a run that has saved a checkpoint")
    target = folder if out is None else Path(out)
    require(target == folder or not has_checkpoint(target), "out", os.fspath(target), "no other run's directory")
    family = write_model(_read_run(folder, None, mesh), target, max_shard_bytes=max_shard_bytes).name
    config = read_config(folder)
    if config.tune.lora_rank > 0:
        head = _trained(folder, config, mesh)
        settings, labels = tuning.adapter_settings(config), read_settings(folder).labels
        found = peft.Adapter(settings, head.pop(tuning.ADAPTER), head, config.init_from, labels)
        peft.save_adapter(found, target / "adapter", config.model, family)
    return family


def _read_run(folder: Path, dtype: str | None, mesh: Mesh | None) -> Model:
    config = read_config(folder)
    cfg, tuned = config.model, tuning.find(config)
    tokenizer = tokenizers.load(folder)
    require(
        tokenizer.vocab_size <= cfg.vocab_size,
        f"{folder}: tokenizer.vocab_size",
        tokenizer.vocab_size,
        f"at most model.vocab_size={cfg.vocab_size}",
    )
    cfg = cfg if dtype is None else replace(cfg, dtype=dtype)
    found = _trained(folder, config, mesh)
    if config.tune != TuneConfig():
        found = tuned.whole(found, init_from.frozen(config.init_from, declarations(cfg), tuned, mesh))
    return Model(cfg, by_layer(found, dtype or "float32"), tokenizer, read_settings(folder))


def _trained(folder: Path, config: TrainConfig, mesh: Mesh | None) -> dict:
    """What the run trained of its model."""
    trained = tuning.find(config).trained(declarations(config.model))
    return restore_params(folder / CHECKPOINTS, P.abstract(trained, mesh))


def _read_adapted(folder: Path, dtype: str | None, mesh: Mesh | None) -> Model:
    base = read_object(folder / peft.CONFIG).get("base_model_name_or_path")
    expected = "the folder or repository of a model"
    require(isinstance(base, str), f"{folder / peft.CONFIG}: base_model_name_or_path", base, expected)
    model = load(base, dtype=dtype, mesh=mesh)
    cfg, family = model.config, model.settings.family
    if cfg.architecture != "encoder-decoder" and cfg.head != "sequence":
        told = init_from.architecture(find_folder(base), "sequence")
        if (n := peft.n_classes(folder, told, family)) is not None:  # the adapter brings a head to tell classes
            cfg = replace(told, dtype=cfg.dtype, n_classes=n)
            model = replace(model, settings=replace(model.settings, labels=tuple(f"LABEL_{i}" for i in range(n))))
    adapter = peft.load_adapter(folder, cfg, family)
    params = lora.adapt(model.params, adapter.params, adapter.config) | adapter.head
    settings = replace(model.settings, labels=adapter.labels or model.settings.labels)
    return replace(model, config=cfg, params={name: params[name] for name in declarations(cfg)}, settings=settings)
