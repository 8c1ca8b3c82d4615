"""torch.nn's names of the parameters, as jaxgpt's trees: of the layers that tests/golden/make_encoder.py built.

Each is linear in the weights, so that it maps gradients too; torch stores its matrices (outputs, inputs).
"""

import numpy as np

from jaxgpt.config import ModelConfig

Weights = dict[str, np.ndarray]


def linear(weights: Weights, name: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> dict:
    params = {"kernel": weights[f"{name}.weight"].T.reshape(*inputs, *outputs)}
    if f"{name}.bias" in weights:
        params["bias"] = weights[f"{name}.bias"].reshape(outputs)
    return params


def norm(weights: Weights, name: str) -> dict:
    leaves = {"scale": f"{name}.weight", "bias": f"{name}.bias"}
    return {leaf: weights[path] for leaf, path in leaves.items() if path in weights}


def attention(weights: Weights, cfg: ModelConfig, *names: str) -> dict:
    """names: those of the query, key, value and output projections."""
    width, heads = (cfg.d_model,), (cfg.n_heads, cfg.head_width)
    shapes = [(width, heads)] * 3 + [(heads, width)]
    kinds = ("query", "key", "value", "output")
    return {kind: linear(weights, name, *shape) for kind, name, shape in zip(kinds, names, shapes, strict=True)}


def mlp(weights: Weights, cfg: ModelConfig, up: str, down: str) -> dict:
    width, hidden = (cfg.d_model,), (cfg.ff_width,)
    return {"up": linear(weights, up, width, hidden), "down": linear(weights, down, hidden, width)}


def torch_attention(weights: Weights, cfg: ModelConfig, at: str = "") -> dict:
    """torch.nn.MultiheadAttention: queries, keys and values are rows of one matrix."""
    names = {f"{at}out_proj.{leaf}": weights[f"{at}out_proj.{leaf}"] for leaf in ("weight", "bias")}
    for leaf in ("weight", "bias"):
        for name, third in zip("qkv", np.split(weights[f"{at}in_proj_{leaf}"], 3), strict=True):
            names[f"{at}{name}.{leaf}"] = third
    return attention(names, cfg, *(f"{at}{x}" for x in ("q", "k", "v", "out_proj")))


def torch_block(weights: Weights, cfg: ModelConfig) -> dict:
    """torch.nn.TransformerEncoderLayer, or TransformerDecoderLayer by its third norm."""
    params = {
        "attention": torch_attention(weights, cfg, "self_attn."),
        "attention_norm": norm(weights, "norm1"),
        "mlp": mlp(weights, cfg, "linear1", "linear2"),
        "mlp_norm": norm(weights, "norm3" if "norm3.weight" in weights else "norm2"),
    }
    if "norm3.weight" in weights:
        params |= {"cross": torch_attention(weights, cfg, "multihead_attn."), "cross_norm": norm(weights, "norm2")}
    return params
