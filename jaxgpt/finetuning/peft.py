"""Adapters in PEFT's layout, adapter_config.json and adapter_model.safetensors: written, and read whoever trained them.

PEFT adapts the modules of transformers' models. One that holds several kernels (GPT-2's c_attn: query, key and value)
has one adapter for all of them.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import save

from jaxgpt import params as P
from jaxgpt.checks import holds, require, words
from jaxgpt.config import ModelConfig
from jaxgpt.finetuning.lora import LoRAConfig, declare
from jaxgpt.model import declarations
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Section
from jaxgpt.pretrained.files import FLOATS, Weights, open_file
from jaxgpt.pretrained.folder import express, stacked
from jaxgpt.pretrained.mapping import Stacked, Stored, file_tensors, load_tree
from jaxgpt.sharding import fetch
from jaxgpt.tokenizers.base import read_object, write_whole

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEADS = ("pooler", "classifier")  # what may be trained whole beside an adapter

_PREFIX = "base_model.model."  # of every tensor's name
_LABELS = "labels"  # in the header of WEIGHTS
_TASKS = {
    ("decoder", "lm"): "CAUSAL_LM",
    ("encoder-decoder", "lm"): "SEQ_2_SEQ_LM",
    ("decoder", "sequence"): "SEQ_CLS",
    ("encoder", "sequence"): "SEQ_CLS",
    ("encoder", "token"): "TOKEN_CLS",
    ("encoder", "pooled"): "FEATURE_EXTRACTION",
    ("encoder", "none"): "FEATURE_EXTRACTION",
}  # PEFT has no word for the others
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")  # init_lora_weights that leave the base as it is
# May say anything: which modules there are, as the tensors say it too; and how the adapter was begun or is run.
_IGNORED = {
    "auto_mapping", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "megatron_config", "megatron_core", "modules_to_save", "peft_version", "qalora_group_size",
    "revision", "target_modules", "task_type",
}  # fmt: skip


class Adapter(NamedTuple):
    """What is trained of a model, and kept, where its own parameters stay."""

    config: LoRAConfig
    params: dict
    """As `lora.declare` has them."""
    head: dict
    """Parameters of the model's that were trained whole: {"classifier": {"kernel": ...}}, those of HEADS; or {}."""
    base: str | None = None
    """The folder or repository of the model."""
    labels: tuple[str, ...] = ()
    """The names of the classes that the head tells, if they are known."""


def save_adapter(adapter: Adapter, folder: str | Path, cfg: ModelConfig, family: str | None = None) -> None:
    """Write the adapter of a model of this architecture as PEFT reads it for transformers' model of the same.

    family: the one whose names to take, if it has such models, as of `Settings`.
    Each file is written whole or not at all. Of several processes all must call this; the first writes.
    Raises ValueError, before anything is written, for an architecture that no family has and an adapter of another.
    """
    names, _ = express(cfg, family)
    _check(adapter, cfg)
    mapping, modules = names.tensors(cfg), _modules(cfg, names)
    head = dict(file_tensors({name: mapping[name] for name in adapter.head}, adapter.head))
    pairs = _fused(modules, jax.tree.map(fetch, adapter.params))
    if jax.process_index() > 0:
        return

    tensors = {f"{name}.lora_A.weight": a for name, (a, _) in pairs.items()}
    tensors |= {f"{name}.lora_B.weight": b for name, (_, b) in pairs.items()} | head
    # In C order: the library writes any other without a word, and wrong.
    tensors = {_PREFIX + name: np.asarray(x, order="C") for name, x in tensors.items()}

    def alpha(rank: int) -> float:
        return adapter.config.alpha * rank / adapter.config.rank

    flipped = {module.name: module.flipped for layers in modules.values() for module in layers}
    ranks = {name: len(a) for name, (a, _) in pairs.items()}
    most = Counter(ranks.values()).most_common(1)[0][0]
    others = {rank: [name for name in ranks if ranks[name] == rank] for rank in {*ranks.values()} - {most}}
    patterns = {end: rank for rank, chosen in others.items() for end in _endings(chosen, ranks)}
    options = {
        "peft_type": "LORA",
        "task_type": _TASKS.get((cfg.architecture, cfg.head)),
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "target_modules": _endings(ranks, flipped),
        "r": most,
        "lora_alpha": alpha(most),
        "lora_dropout": adapter.config.dropout,
        "rank_pattern": patterns,
        "alpha_pattern": {end: alpha(rank) for end, rank in patterns.items()},
        "modules_to_save": sorted({name.removeprefix(names.prefix).split(".")[0] for name in head}) or None,
        "fan_in_fan_out": any(flipped[name] for name in ranks),
        "bias": "none",
    }
    # PEFT has no place for names, and does not look at what else the file's header holds.
    told = {_LABELS: json.dumps(adapter.labels)} if adapter.labels else {}
    write_whole(Path(folder) / WEIGHTS, save(tensors, {"format": "pt"} | told))
    write_whole(Path(folder) / CONFIG, json.dumps(options, indent=2))


def load_adapter(folder: str | Path, cfg: ModelConfig, family: str | None = None) -> Adapter:
    """The adapter in the folder, for a model of this architecture, in float32; its targets are whole paths.

    A kernel that shares its module gets all of that module's A, and its rows of B. Where ranks differ or a layer has no
    adapter, a and b are filled up with zeros, which no gradient changes; where scales differ, b has the ratio.
    family: as in `save_adapter`.
    Raises FileNotFoundError for a file that is missing; ValueError for an adapter of another model (a tensor that this
    one has no place for, or of another shape), for names of other classes than the model's, and for an option of PEFT's
    that is not computed here.
    """
    folder = Path(folder)
    options, weights = _read_options(folder), _open(folder)
    names, _ = express(cfg, family)
    stored = partial(_stored, prefix=names.prefix, weights=weights)
    pairs = {
        path: [(module, [stored(f"{module.name}.lora_{which}.weight") for which in "AB"]) for module in layers]
        for path, layers in _modules(cfg, names).items()
    }
    mapping = {name: part for name, part in names.tensors(cfg).items() if name in HEADS}
    mapping = jax.tree.map(lambda entry: replace(entry, name=stored(entry.name)), mapping)
    used = {name for layers in pairs.values() for _, both in layers for name in both}
    used |= {entry.name for entry in jax.tree.leaves(mapping)}
    if unknown := sorted(weights.tensors.keys() - used):
        place = f"none that this model ({names.name}, head={cfg.head!r}) has no place for"
        raise ValueError(f"{folder / WEIGHTS}: found the tensor {unknown[0]!r}, expected {place}")

    found = {path: [_read(weights, *layer, options) for layer in layers] for path, layers in pairs.items()}
    found = {path: layers for path, layers in found.items() if any(layers)}
    require(bool(found), f"{folder / WEIGHTS}: tensors", sorted(weights.tensors), "an adapter")
    held = [name for name in mapping if any(x.name in weights.tensors for x in jax.tree.leaves(mapping[name]))]
    abstract = P.abstract({name: declarations(cfg)[name] for name in held})
    head = load_tree({name: mapping[name] for name in held}, abstract, weights, ["*"])
    return Adapter(*_joined(found, options, cfg), head, options.base, _read_labels(folder, cfg.n_classes))


def _read_labels(folder: Path, n: int | None) -> tuple[str, ...]:
    """The names of n classes, as `save_adapter` writes them; () where the file has none."""
    with safe_open(folder / WEIGHTS, "numpy") as opened:
        told = (opened.metadata() or {}).get(_LABELS)
    if told is None:
        return ()
    try:
        names = json.loads(told)
    except ValueError:
        names = None
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(names) == n
    require(fits, f"{folder / WEIGHTS}: {_LABELS}", told, f"a JSON list of the names of n_classes={n}")
    return tuple(names)


def n_classes(folder: str | Path, cfg: ModelConfig, family: str | None = None) -> int | None:
    """How many classes the head in the adapter's file tells apart; None where it has none.

    cfg: that of the model with head="sequence". family: as in `save_adapter`. Raises as `load_adapter`.
    """
    weights, (names, _) = _open(Path(folder)), express(cfg, family)
    found = weights.tensors.get(_stored(names.tensors(cfg)["classifier"]["kernel"].name, names.prefix, weights))
    return None if found is None else found[1][0]


def _stored(name: str, prefix: str, weights: Weights) -> str:
    """A tensor's name in this file: a bare model lacks the prefix."""
    bare = name.removeprefix(prefix)
    forms = [_PREFIX + form for form in (name, bare, prefix + bare)]
    return next((form for form in forms if form in weights.tensors), forms[0])


class _Module(NamedTuple):
    """Where in a torch module a kernel lies, or one layer of it."""

    name: str
    inputs: int
    whole: int
    """Outputs of the module, of which the kernel has some: `outputs`, from `start` on."""
    start: int
    outputs: int
    flipped: bool
    """The module's weight is (inputs, outputs): a Conv1D."""


def _modules(cfg: ModelConfig, family: Family) -> dict[str, list[_Module]]:
    """By the path of a kernel: its module, or that of each layer."""
    shapes = {path: p.shape for path, p in traverse_util.flatten_dict(declarations(cfg), sep="/").items()}
    modules = {}
    for path, entry in traverse_util.flatten_dict(stacked(family.tensors(cfg)), sep="/").items():
        if path.endswith("/kernel"):
            layers, shape = (entry.layers, shapes[path][1:]) if isinstance(entry, Stacked) else ([entry], shapes[path])
            modules[path.removesuffix("/kernel")] = [_module(layer, shape) for layer in layers]
    return modules


def _module(entry: Stored, kernel: tuple[int, ...]) -> _Module:
    flipped = entry.axes[0][0] == 0
    inputs, whole = entry.shape(kernel)[:: 1 if flipped else -1]
    start = 0 if entry.part is None else entry.part.start
    return _Module(entry.name.removesuffix(".weight"), inputs, whole, start, math.prod(kernel) // inputs, flipped)


def _check(adapter: Adapter, cfg: ModelConfig) -> None:
    """Raise ValueError unless the adapter is one of this architecture, whatever is trained whole no target."""
    declared = declarations(cfg)
    for name in adapter.head:
        require(
            name in HEADS and name in declared, "adapter.head", name, f"one of {', '.join(HEADS)}, as the model has"
        )
        require(name not in adapter.params, "lora.targets", name, "no part of what is trained whole")
    expected = {"params": declare(declared, adapter.config), "head": {name: declared[name] for name in adapter.head}}
    theirs, ours = (_shapes(tree) for tree in (expected, {"params": adapter.params, "head": adapter.head}))
    for path in sorted(ours | theirs):
        require(ours.get(path) == theirs.get(path), f"adapter.{path}", ours.get(path), f"{theirs.get(path)}")


def _shapes(tree: dict) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}


def _fused(modules: dict[str, list[_Module]], params: dict) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each adapted module's A (rank, inputs) and B (outputs, rank)."""
    parts: dict[str, list] = {}
    flat = traverse_util.flatten_dict(params, sep="/", is_leaf=lambda _, branch: "a" in branch)
    for path, pair in flat.items():
        layers, rank = modules[path], pair["a"].shape[-1]
        pairs = pair["a"].reshape(len(layers), -1, rank), pair["b"].reshape(len(layers), rank, -1)
        for module, a, b in zip(layers, *pairs, strict=True):
            parts.setdefault(module.name, []).append((module, a.T, b.T))
    return {name: _one(held) for name, held in parts.items()}


def _one(parts: list[tuple[_Module, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The adapters of a module's parts as one: each A below the last, and B zero where a part has nothing of another's.

    Where all have the same A, as those have that were one before, it stays that.
    """
    module, first, _ = parts[0]
    alike = all(np.array_equal(a, first) for _, a, _ in parts)
    below = first if alike else np.concatenate([a for _, a, _ in parts])
    beside = np.zeros((module.whole, len(below)), first.dtype)
    for i, (module, a, b) in enumerate(parts):
        columns = slice(None) if alike else slice(i * len(a), (i + 1) * len(a))
        beside[module.start : module.start + module.outputs, columns] = b
    return below, beside


def _endings(names: Collection[str], known: Collection[str]) -> list[str]:
    """What these names end with and no other that is known, in as few words as can be: ["q_proj"]."""
    others = [f".{name}" for name in known if name not in names]

    def shortest(name: str) -> str:
        words = name.split(".")
        endings = (".".join(words[i:]) for i in reversed(range(len(words))))
        return next(end for end in endings if not any(other.endswith(f".{end}") for other in others))

    return sorted({shortest(name) for name in names})


class _Options(NamedTuple):
    """What adapter_config.json says that an adapter's numbers depend on."""

    rank: int
    alpha: float
    ranks: dict[str, Any]
    alphas: dict[str, Any]
    divisor: Callable[[float], float]
    """alpha is divided by this of the rank."""
    dropout: float
    base: str | None

    def of(self, module: str) -> tuple[int, float]:
        """A module's rank, and what its product is multiplied by."""
        rank = _matching(self.ranks, module, self.rank)
        return rank, _matching(self.alphas, module, self.alpha) / self.divisor(rank)


def _matching(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that the module's name ends with."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _read_options(folder: Path) -> _Options:
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: found no {CONFIG}, expected that of an adapter")
    # An option that is off changes nothing, whichever it is.
    values = {name: x for name, x in read_object(file).items() if x not in (None, {}, []) and x is not False}
    fields = Section(values, file)
    kind = fields.get("peft_type", None, str)
    fields.check("peft_type", kind == "LORA", "LORA")
    fields.expect("bias", "none")
    fields.expect("init_lora_weights", *_BEGINNINGS)
    fields.ignore(*_IGNORED)
    options = _Options(
        rank=fields.get("r", 8),
        alpha=fields.get("lora_alpha", 8.0),
        ranks=fields.get("rank_pattern", {}),
        alphas=fields.get("alpha_pattern", {}),
        divisor=math.sqrt if fields.get("use_rslora", False) else float,  # Kalajdzievski 2023, section 4
        dropout=fields.get("lora_dropout", 0.0),
        base=fields.get("base_model_name_or_path", None, str),
    )
    fields.finish()
    for name, numbers, kind in (
        ("r", [options.rank], int),
        ("rank_pattern", options.ranks.values(), int),
        ("lora_alpha", [options.alpha], float),
        ("alpha_pattern", options.alphas.values(), float),
    ):
        fields.check(name, all(holds(x, kind) and x > 0 for x in numbers), f"{words(kind)} above 0")
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern in values.get(name, {}):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{file}: {name}: found {pattern!r} ({error}), expected a pattern of names") from error
    return options


def _open(folder: Path) -> Weights:
    if (folder / WEIGHTS).is_file():
        return open_file(folder / WEIGHTS)
    pickle = folder / "adapter_model.bin"
    if pickle.is_file():
        raise ValueError(f"{pickle}: found a pickle, which may run any code when opened, expected {WEIGHTS} beside it")
    raise FileNotFoundError(f"{folder}: found no {WEIGHTS}, expected that of an adapter")


def _read(
    weights: Weights, module: _Module, names: list[str], options: _Options
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A (rank, inputs), the module's rows of B (outputs, rank) and their scale; None where the file has neither."""
    if not weights.tensors.keys() & set(names):
        return None
    rank, scale = options.of(names[0].removeprefix(_PREFIX).removesuffix(".lora_A.weight"))
    for name, shape in zip(names, ((rank, module.inputs), (module.whole, rank)), strict=True):
        require(name in weights.tensors, f"{weights.folder / WEIGHTS}: tensors", "one of a pair", f"{name} too")
        file, found, dtype = weights.tensors[name]
        require(found == shape, f"{file}: shape of {name}", found, f"{shape}")
        require(dtype in FLOATS, f"{file}: dtype of {name}", dtype, f"one of {', '.join(FLOATS)}")
    rows = slice(module.start, module.start + module.outputs)
    a = weights.read(names[0], (slice(0, rank), slice(0, module.inputs)))
    return a, weights.read(names[1], (rows, slice(0, rank))), scale


def _joined(found: dict[str, list], options: _Options, cfg: ModelConfig) -> tuple[LoRAConfig, dict]:
    """One rank and one scale for all, and the stacks that `declare` has."""
    pairs = [one for layers in found.values() for one in layers if one is not None]
    rank, scale = max(len(a) for a, _, _ in pairs), pairs[0][2]
    config = LoRAConfig(rank, scale * rank, options.dropout, tuple(found))
    declared = traverse_util.flatten_dict(declare(declarations(cfg), config), sep="/")
    params = {}
    for path, layers in found.items():
        shapes = [declared[f"{path}/{name}"].shape for name in "ab"]
        a, b = (np.zeros(shape, np.float32) for shape in shapes)
        into = a.reshape(len(layers), -1, rank), b.reshape(len(layers), rank, -1)
        for one, *here in zip(layers, *into, strict=True):
            if one is not None:
                here[0][:, : len(one[0])] = one[0].T
                here[1][: len(one[0])] = one[1].T.astype(np.float32) * (one[2] / scale)
        params |= {f"{path}/a": jnp.asarray(a), f"{path}/b": jnp.asarray(b)}
    return config, traverse_util.unflatten_dict(params, sep="/")
