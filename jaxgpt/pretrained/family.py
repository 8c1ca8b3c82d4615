"""What a family of checkpoints is, and the table of the families there are."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxgpt.checks import nearest, require
from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.fields import Fields

# model_type in config.json -> the module whose FAMILIES has it. Imported when asked for.
MODULES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "phi3": "phi3",
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "distilbert": "distilbert",
    "marian": "marian",
    "t5": "t5",
}


@dataclass(frozen=True)
class Family:
    """How the config.json and the tensors of some checkpoints say what a `ModelConfig` and its parameters say."""

    name: str
    """model_type in config.json."""
    kind: str
    """The ModelConfig.architecture of all its models."""
    architectures: Mapping[str, str]
    """Names of its models in transformers ("BertForMaskedLM"), each with the ModelConfig.head it has."""
    read: Callable[[Fields, str], ModelConfig]
    """read(fields of config.json, head) -> the config. Raises ValueError for a field that says what no config can."""
    write: Callable[[ModelConfig], dict[str, Any]]
    """The inverse: fields of config.json. Need not look for what the family can't say: `express` compares."""
    tensors: Callable[[ModelConfig], dict]
    """The tree of `Stored`, in the shape of the parameters with one tree a layer."""
    settle: Callable[[ModelConfig, set[str]], ModelConfig] = lambda cfg, names: cfg
    """settle(config that was read, names of the file's tensors) -> the config, where a part of it shows there alone."""
    prefix: str = ""
    """What the names of the body's tensors begin with ("bert."), which a bare model's file leaves out."""
    ignored: tuple[str, ...] = ()
    """Patterns of tensors that a file may hold and that say nothing."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that a file may hold besides, each with the one that it must equal, as the model has them as one."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Endings of tensors' names in old files, each with what it is now (".gamma", ".weight")."""


def find(name: str) -> Family:
    """The family of this model_type. Raises ValueError, with those there are, for another."""
    require(name in MODULES, "config.json: model_type", name, nearest(str(name), MODULES))
    return importlib.import_module(f"jaxgpt.pretrained.{MODULES[name]}").FAMILIES[name]


def head_of(family: Family, architectures: list[str] | None) -> str:
    """The head of the model that config.json names. Raises ValueError for one that the family has not."""
    known = family.architectures
    name = (architectures or list(known)[:1])[0]
    require(name in known, "config.json: architectures", name, nearest(name, known))
    return known[name]


def class_of(family: Family, head: str) -> str | None:
    """The inverse; None where the family has no such model. A bare model may lack its pooler."""
    heads = (head, "pooled") if head == "none" else (head,)
    return next((name for one in heads for name, other in family.architectures.items() if other == one), None)
