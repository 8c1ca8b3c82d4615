"""A model from a folder in Hugging Face's layout, and into one."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jaxgpt import params as P
from jaxgpt import tokenizers
from jaxgpt.checks import require
from jaxgpt.config import ModelConfig
from jaxgpt.model import Model, declarations
from jaxgpt.pretrained import family as families
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import CONFIG, Fields, read_fields
from jaxgpt.pretrained.files import FLOATS, Weights, open_folder, write_folder
from jaxgpt.pretrained.mapping import Mapping, Stacked, file_tensors, load_tree
from jaxgpt.pretrained.settings import read_settings, token_fields, write_settings
from jaxgpt.tokenizers.base import read_object, write_whole

SHARD_BYTES = 5 * 10**9  # of a file, at most: as the hub advises
# What a checkpoint's folder does not say: how a model is computed, begun and trained.
_FREE = ("dtype", "attention", "scan_layers", "remat", "init_std", "dropout", "label_smoothing")


def read_model(folder: Path, *, dtype: str | None = None, mesh: Mesh | None = None) -> Model:
    """The model of a checkpoint's folder, each tensor read straight into its shards on the mesh; one tree a layer.

    dtype: of parameters and activations (None: as the folder says).
    Raises FileNotFoundError for a file that is missing; ValueError, before any tensor is read, for an architecture that
    there is not (with those that there are), a field of config.json that no function here would read, and tensors that
    are missing, left over or of another shape than the config's.
    """
    weights = open_folder(folder)
    cfg, family = _read_config(folder, weights)
    cfg = replace(cfg, dtype=dtype or _dtype(folder, weights))
    abstract = P.abstract(P.by_layer(declarations(cfg)), mesh, cfg.dtype)
    tokenizer = tokenizers.load(folder)
    settings = read_settings(folder, read_object(folder / CONFIG), family.name)
    params = load_tree(_mapping(cfg, family, weights), abstract, weights, (*family.ignored, *family.copies))
    return Model(cfg, params, tokenizer, settings)


def read_config(folder: Path, head: str | None = None) -> tuple[ModelConfig, Family]:
    """The architecture of a checkpoint's folder and its family. Raises the errors of `read_model`.

    head: as if its model had this one (None: its own).
    """
    return _read_config(folder, open_folder(folder), head)


def _read_config(folder: Path, weights: Weights, head: str | None = None) -> tuple[ModelConfig, Family]:
    fields = read_fields(folder)
    family = families.find(fields.get("model_type", None, str))
    own = families.head_of(family, fields.get("architectures", None, list))
    cfg = family.read(fields, head or own)
    fields.finish()
    copies = {name for name, original in family.copies.items() if weights.equal(name, original)}
    return family.settle(cfg, set(weights.tensors) - copies), family


def read_params(folder: Path, abstract: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
    """The parameters of a checkpoint's folder in the layout, dtype and shardings of `abstract`, layers stacked."""
    weights = open_folder(folder)
    cfg, family = _read_config(folder, weights)
    mapping = stacked(_mapping(cfg, family, weights))
    return load_tree(mapping, abstract, weights, (*family.ignored, *family.copies))


def write_model(model: Model, folder: Path, *, max_shard_bytes: int = SHARD_BYTES) -> Family:
    """Write config.json, the weights, the tokenizer and what else there is; returns the family that has the layout.

    max_shard_bytes: above it the weights become several files and an index. Each file is written whole or not at all.
    Of several processes all must call this; the first writes.
    Raises ValueError, before anything is written, for a model that no family expresses, naming what stands in the way.
    """
    family, fields = express(model.config, model.settings.family)
    mapping = family.tensors(model.config)
    tensors = file_tensors(mapping if _by_layer(model.params) else stacked(mapping), model.params)
    if jax.process_index() > 0:
        for _ in tensors:  # fetched by all
            pass
        return family
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, tensors, max_shard_bytes=max_shard_bytes)
    model.tokenizer.save(folder)
    settings = replace(model.settings, generation=model.generation)
    write_settings(settings, folder, model.config.d_model, model.config.architecture == "encoder")
    tokens = {name: token for name, token in _tokens(model).items() if fields.get(name) is None}
    write_whole(folder / CONFIG, json.dumps(fields | tokens | _more_fields(model), indent=2))
    return family


def express(cfg: ModelConfig, prefer: str | None = None) -> tuple[Family, dict[str, Any]]:
    """The family that says all of the config, the preferred one if it does, and the fields of its config.json.

    Raises ValueError where there is none, naming the fields that the nearest one can't say.
    """
    obstacles: dict[str, list[str]] = {}
    for name in sorted(families.MODULES, key=lambda name: name != prefer):
        family = families.find(name)
        model = families.class_of(family, cfg.head)
        if family.kind != cfg.architecture or model is None:
            continue
        fields = {"model_type": name, "architectures": [model]} | family.write(cfg)
        try:
            back = family.read(Fields(dict(fields), f"{name}'s {CONFIG}"), cfg.head)
        except ValueError:  # such sizes are none that the family can have
            continue
        found = _differences(cfg, back)
        if not found:
            return family, fields
        obstacles[name] = [f"model.{field}: found {ours!r}, expected {theirs!r}" for field, ours, theirs in found]
    if not obstacles:
        raise ValueError(f"model.head: found {cfg.head!r}, expected one that a family of checkpoints has")
    name = min(obstacles, key=lambda name: len(obstacles[name]))
    reasons = "; ".join(obstacles[name])
    raise ValueError(f"no family of checkpoints has this model; {reasons}, as {name}, the nearest, has it")


def stacked(mapping: Mapping) -> Mapping:
    """The mapping of parameters whose layers are stacked."""

    def walk(tree, name=""):
        if name == "layers":
            return jax.tree.map(lambda *layers: Stacked(layers), *tree)
        return {key: walk(branch, key) for key, branch in tree.items()} if isinstance(tree, dict) else tree

    return walk(mapping)


def _by_layer(params: dict) -> bool:
    return isinstance(params.get("layers", params.get("decoder", {}).get("layers")), tuple)


def _dtype(folder: Path, weights: Weights) -> str:
    """Of the folder's parameters: as its config.json says, else as they are."""
    config = read_object(folder / CONFIG)
    known = [name for name in FLOATS.values() if name != "float64"]
    said = config.get("dtype") or config.get("torch_dtype")
    held = next((FLOATS[found.dtype] for found in weights.tensors.values() if found.dtype in FLOATS), "float32")
    dtype = str(said or held).removeprefix("torch.")
    require(dtype in known, f"{folder / CONFIG}: dtype", dtype, f"one of {', '.join(known)}, or dtype=... given")
    return dtype


def _mapping(cfg: ModelConfig, family: Family, weights: Weights) -> Mapping:
    """The family's mapping by the names that this file has: with or without the body's prefix, perhaps old ones.

    Raises ValueError for a copy of one of them that holds something else.
    """
    names = weights.tensors

    def named(entry):
        name, bare = entry.name, entry.name.removeprefix(family.prefix)
        forms = [name, bare, family.prefix + bare]
        for old, new in family.aliases:
            forms += [form.removesuffix(new) + old for form in forms if form.endswith(new)]
        return replace(entry, name=next((form for form in forms if form in names), name))

    mapping = jax.tree.map(named, family.tensors(cfg))
    used = {entry.name for entry in jax.tree.leaves(mapping)}
    for name in names.keys() & family.copies.keys() - used:
        original = family.copies[name]
        expected = f"those of {original}, which it is a copy of in this model"
        require(weights.equal(name, original), f"{names[name].file}: {name}", "other numbers", expected)
    return mapping


def _differences(cfg: ModelConfig, other: ModelConfig) -> list[tuple[str, Any, Any]]:
    """(field, here, there) where the two are not the same function."""
    ours, theirs = (_resolved(one) for one in (cfg, other))
    found = {}
    for name in ours:
        if ours[name] == theirs[name]:
            continue
        if name in ("attention_bias", "mlp_bias") and getattr(cfg, name) is None:  # it is `bias` that says so
            found["bias"] = ("bias", cfg.bias, not cfg.bias)
        else:
            found[name] = (name, ours[name], theirs[name])
    return list(found.values())


def _resolved(cfg: ModelConfig) -> dict[str, Any]:
    """Its fields, with what None stands for."""
    names = (field.name for field in dataclasses.fields(cfg))
    values = {name: getattr(cfg, name) for name in names if name not in _FREE}
    values |= {"n_kv_heads": cfg.kv_heads, "head_dim": cfg.head_width, "d_ff": cfg.ff_width}
    if cfg.architecture == "encoder-decoder":
        values["n_encoder_layers"] = cfg.encoder_layers
    if cfg.position == "rotary":
        values |= {"rope_theta": cfg.rope_theta or 10000.0, "rope_width": cfg.rotary_width}
    if cfg.position == "relative":
        values |= {"relative_buckets": cfg.relative_buckets or 32}
        values |= {"relative_max_distance": cfg.relative_max_distance or 128}
    values["attention_bias"] = cfg.attention_bias or ("all" if cfg.bias else "none")
    values["mlp_bias"] = cfg.bias if cfg.mlp_bias is None else cfg.mlp_bias
    if cfg.norm == "rms":  # which has no bias of its own
        values["bias"] = None
    values["attention_scale"] = cfg.attention_scale or cfg.head_width**-0.5
    values["logit_scale"] = cfg.logit_scale or 1.0
    values["pooler_activation"] = cfg.pooler_activation or "tanh"
    if cfg.head not in ("lm", "pretraining"):
        values["tie_embeddings"] = None  # there is nothing to tie
    return values


def _tokens(model: Model) -> dict[str, Any]:
    """The ids that config.json names, null for none: what a family has by default may be outside the vocabulary."""
    added, pad = model.tokenizer.frame([]), model.tokenizer.pad
    if pad is None and model.config.architecture == "decoder" and model.config.head == "sequence":
        pad = model.tokenizer.end_of_text  # without one transformers classifies no two texts at once
    ids = {"pad_token_id": pad, "bos_token_id": added[0] if added else None}
    return ids if model.config.architecture == "encoder" else ids | token_fields(model.generation)


def _more_fields(model: Model) -> dict[str, Any]:
    """What config.json has beside the architecture."""
    settings, dtype = model.settings, jax.tree.leaves(model.params)[0].dtype.name
    more = {"dtype": dtype, "torch_dtype": dtype}
    if settings.labels:
        more |= {"id2label": {str(i): label for i, label in enumerate(settings.labels)}}
        more |= {"label2id": {label: i for i, label in enumerate(settings.labels)}}
    if settings.prefixes:
        more["task_specific_params"] = {task: {"prefix": prefix} for task, prefix in settings.prefixes}
    return more
