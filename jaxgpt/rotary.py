"""Rotary positions: each pair of a head's dimensions is turned by an angle that grows with the position."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig, RopeScaling


def rotate(
    x: Float[Array, "batch time heads head_dim"],
    positions: Int[Array, "#batch time"],
    cfg: ModelConfig,
    lengths: Int[Array, "#batch"] | None = None,
) -> Float[Array, "batch time heads head_dim"]:
    """The pair (i, i + rope_width/2) is turned by position * frequency i; dimensions beyond rope_width stay.

    lengths: of the rows' texts, which longrope asks for.
    Source: Su et al. 2021, section 3.4.2, equation 34; pairs are halves apart, as in GPT-NeoX and Hugging Face's Llama.
    """
    half = cfg.rotary_width // 2
    # float32: bfloat16 rounds position 257 to 256.
    angles = (positions[..., None] * frequencies(cfg, lengths)[:, None])[:, :, None, :]
    magnitude = magnitude_of(cfg)
    cos, sin = jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude
    first, second = x[..., :half].astype(jnp.float32), x[..., half : 2 * half].astype(jnp.float32)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate([*(part.astype(x.dtype) for part in turned), x[..., 2 * half :]], -1)


def frequencies(cfg: ModelConfig, lengths: Int[Array, "#batch"] | None = None) -> Float[Array, "#batch pairs"]:
    """Radians a position of each pair: theta^(-2i/width), stretched as `cfg.rope_scaling` says.

    lengths: tokens of each row's text, for longrope (transformers takes the batch's longest). A text that outgrows
    original_length is another one from its first token on, and a cache of it useless: see `at_length`.
    Sources: linear, Chen et al. 2023, section 2.3; yarn, Peng et al. 2023, section 3.2; longrope, Ding et al. 2024,
    section 3; llama3, the reference implementation of Llama 3.1.
    """
    width, scaling = cfg.rotary_width, cfg.rope_scaling
    theta = cfg.rope_theta or 10000.0
    plain = theta ** (-np.arange(0, width, 2) / width)  # float64: an error here is multiplied by the position
    match scaling and scaling.kind:
        case None:
            found = plain
        case "linear":
            found = plain / scaling.factor
        case "llama3":
            low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
            turns = scaling.original_length * plain / (2 * math.pi)
            kept = np.clip((turns - low) / (high - low), 0, 1)
            found = plain * (kept + (1 - kept) / scaling.factor)
        case "yarn":
            first, last = (_pair(width, theta, scaling, turns) for turns in (scaling.beta_fast, scaling.beta_slow))
            if scaling.truncate:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, width - 1)
            last = last if last > first else first + 0.001  # as in the reference implementation
            kept = 1 - np.clip((np.arange(width // 2) - first) / (last - first), 0, 1)
            found = plain * (kept + (1 - kept) / scaling.factor)
        case "longrope":
            short, long = (jnp.array(plain / np.array(x), jnp.float32) for x in (scaling.short, scaling.long))
            return jnp.where((lengths > scaling.original_length)[:, None], long, short)
    return jnp.array(found, jnp.float32)[None]


def _pair(width: int, theta: float, scaling: RopeScaling, turns: float) -> float:
    """The pair that makes so many turns within the original length, as a real number."""
    return width * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))


def switches_at(cfg: ModelConfig) -> int | None:
    """The length beyond which all of a text's tokens are turned by other angles; None where there is none."""
    scaling = cfg.rope_scaling
    return scaling.original_length if scaling is not None and scaling.kind == "longrope" else None


def at_length(cfg: ModelConfig, length: int) -> ModelConfig:
    """The config by which the first tokens of a text of this length are encoded as they are within the whole of it."""
    switch = switches_at(cfg)
    if switch is None or length <= switch:
        return cfg
    return replace(cfg, rope_scaling=replace(cfg.rope_scaling, original_length=1, short=cfg.rope_scaling.long))


def magnitude_of(cfg: ModelConfig) -> float:
    """What cosine and sine are multiplied by: stretched wavelengths make attention flatter."""
    return (cfg.rope_scaling and cfg.rope_scaling.magnitude) or 1.0
