"""What the families' rules are made of: layers as torch stores them, and the names of activations and classes."""

from typing import Any

from jaxtyping import PyTree

from jaxgpt.config import ModelConfig
from jaxgpt.model import declarations
from jaxgpt.params import by_layer
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.mapping import Mapping, Part, Stored

# transformers' names -> ours; of several for one, the first is written.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
ACTIVATION_NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}


def linear(name: str, *, inputs: int = 1, outputs: int = 1, part: Part | None = None) -> dict[str, Stored]:
    """torch's Linear, whose weight is (outputs, inputs), of a kernel with so many axes of each; and its bias.

    part: its rows of a fused layer.
    """
    first, last = tuple(range(inputs)), tuple(range(inputs, inputs + outputs))
    return {
        "kernel": Stored(f"{name}.weight", (last, first), part),
        "bias": Stored(f"{name}.bias", (tuple(range(outputs)),), part),
    }


def norm(name: str) -> dict[str, Stored]:
    """A layer norm or RMS norm."""
    return {"scale": Stored(f"{name}.weight"), "bias": Stored(f"{name}.bias")}


def declared(mapping: Mapping, cfg: ModelConfig) -> Mapping:
    """The mapping less what the config declares no parameter for: biases, say, or a head of its own."""

    def keep(mapping: Mapping, declarations: PyTree) -> Mapping:
        if isinstance(declarations, tuple):
            return tuple(map(keep, mapping, declarations))
        if isinstance(declarations, dict):
            return {name: keep(mapping[name], branch) for name, branch in declarations.items()}
        return mapping

    return keep(mapping, by_layer(declarations(cfg)))


def n_classes(fields: Fields, head: str) -> int | None:
    """The number of classes that config.json names, for a head that classifies; 2 where it names none."""
    labels = fields.get("id2label", None, dict)
    number = fields.get("num_labels", 2 if labels is None else len(labels))
    return number if head in ("sequence", "token") else None


def label_fields(cfg: ModelConfig) -> dict[str, Any]:
    """The inverse, by names that say nothing: "LABEL_0"."""
    if cfg.n_classes is None:
        return {}
    labels = [f"LABEL_{i}" for i in range(cfg.n_classes)]
    return {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {x: i for i, x in enumerate(labels)},
    }
