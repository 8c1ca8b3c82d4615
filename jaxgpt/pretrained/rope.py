"""Rotary positions in a config.json, in the words of transformers 4 and of 5."""

from collections.abc import Mapping
from dataclasses import asdict
from math import log, sqrt
from typing import Any, NamedTuple

from jaxgpt.config import ModelConfig, RopeScaling
from jaxgpt.pretrained.fields import Fields

THETA = 10000.0
ORIGINAL = "original_max_position_embeddings"
KINDS = {kind: kind for kind in ("default", "linear", "llama3", "yarn", "longrope")}

# Fields of RopeScaling, less its kind, as transformers calls them.
_NAMES = {
    "factor": "factor",
    "original_length": ORIGINAL,
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "short": "short_factor",
    "long": "long_factor",
    "magnitude": "attention_factor",
}


class Rope(NamedTuple):
    theta: float
    scaling: RopeScaling | None
    share: float
    """Of a head's dimensions that are rotated."""


def read_rope(
    fields: Fields,
    context_length: int,
    *,
    kinds: Mapping[str, str] = KINDS,
    original_length: int | None = None,
    partial: bool = False,
) -> Rope:
    """rope_scaling of transformers 4 and the rope_theta beside it, or rope_parameters of 5, or both.

    kinds: the family's names of the kinds, and ours.
    original_length: tokens of the first training's texts, where the family says so beside the object.
    partial: the family has partial_rotary_factor. In the others transformers reads it nowhere, or fails.
    Raises ValueError for another kind, for what a kind does not read, and for two places that disagree.
    """
    sections = [fields.section(name) for name in ("rope_scaling", "rope_parameters")]
    found = [
        _read(fields, section, context_length, kinds, original_length, partial)
        for section in [one for one in sections if one is not None] or [Fields({}, "")]
    ]
    fields.check("rope_parameters", found[0] == found[-1], "what rope_scaling and rope_theta say")
    return found[0]


def _read(
    fields: Fields,
    section: Fields,
    context_length: int,
    kinds: Mapping[str, str],
    original_length: int | None,
    partial: bool,
) -> Rope:
    def either(name: str, default: float) -> float:
        """Of the section, or beside it."""
        if name not in fields:
            return float(section.get(name, default))
        value = fields.get(name, default)
        section.expect(name, value)
        return float(value)

    def optional(name: str, kind: type = float) -> Any:
        return section.get(name, None, kind)

    name = "rope_type" if "rope_type" in section else "type"
    kind = section.choose(name, kinds, "default")
    if "rope_type" in section:
        section.expect("type", section.get("rope_type", ""))
    values: dict[str, Any] = {}
    if kind in ("llama3", "yarn", "longrope"):
        if original_length is None:
            original_length = section.get(ORIGINAL, context_length)
        else:
            section.expect(ORIGINAL, original_length)
        section.check(ORIGINAL, original_length > 1, "an integer above 1")
        values["original_length"] = original_length
    match kind:
        case "linear":
            values |= {"factor": optional("factor")}
        case "llama3":
            values |= {"factor": optional("factor"), "low_frequency_factor": optional("low_freq_factor")}
            values |= {"high_frequency_factor": optional("high_freq_factor")}
        case "yarn":
            factor = optional("factor") or context_length / original_length
            scales = optional("mscale"), optional("mscale_all_dim")
            values |= {"factor": factor, "truncate": section.get("truncate", True)}
            values |= {"beta_fast": optional("beta_fast") or 32.0, "beta_slow": optional("beta_slow") or 1.0}
            values |= {"magnitude": optional("attention_factor") or _yarn_magnitude(factor, *scales)}
        case "longrope":
            stretch = optional("factor") or context_length / original_length
            values |= {"short": tuple(section.get("short_factor", [])), "long": tuple(section.get("long_factor", []))}
            values |= {"magnitude": optional("attention_factor") or _longrope_magnitude(stretch, original_length)}
    share = 1.0
    if partial:
        share = either("partial_rotary_factor", 1.0)
    else:
        section.expect("partial_rotary_factor", 1.0)
    rope = Rope(either("rope_theta", THETA), None if kind == "default" else RopeScaling(kind, **values), share)
    section.finish()
    return rope


def _yarn_magnitude(factor: float, scale: float | None = None, scale_all: float | None = None) -> float:
    """Peng et al. 2023, section 3.4, and the ratio of two such for DeepSeek's models, as in transformers."""

    def magnitude(scale: float) -> float:
        return 0.1 * scale * log(factor) + 1 if factor > 1 else 1.0

    return magnitude(scale) / magnitude(scale_all) if scale and scale_all else magnitude(1.0)


def _longrope_magnitude(stretch: float, original_length: int) -> float:
    """Ding et al. 2024, as implemented by its authors for Phi-3."""
    return sqrt(1 + log(stretch) / log(original_length)) if stretch > 1 else 1.0


def write_rope(cfg: ModelConfig) -> dict[str, Any]:
    """The inverse: all in rope_parameters, and once more in the words of transformers 4, which reads nothing there."""
    theta, scaling = float(cfg.rope_theta or THETA), {}
    if cfg.rope_scaling is not None:
        values = asdict(cfg.rope_scaling)
        match cfg.rope_scaling:
            case RopeScaling(kind="yarn", factor=factor):
                implied = _yarn_magnitude(factor)
            case RopeScaling(kind="longrope", original_length=length):
                implied = _longrope_magnitude(cfg.context_length / length, length)
            case _:
                implied = None
        if values["magnitude"] == implied:
            values["magnitude"] = None  # or Phi-3's first code, which computes it, would refuse the object
        scaling = {"rope_type": values["kind"]}
        scaling |= {theirs: values[ours] for ours, theirs in _NAMES.items() if values[ours] is not None}
        scaling |= {name: list(value) for name, value in scaling.items() if isinstance(value, tuple)}
    parameters = {"rope_type": "default"} | scaling | {"rope_theta": theta}
    return {"rope_theta": theta, "rope_scaling": scaling or None, "rope_parameters": parameters}
