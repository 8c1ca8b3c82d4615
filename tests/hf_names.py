"""Other implementations' names of the parameters, as jaxgpt's trees: what tests/golden/make_encoder.py built.

Each is linear in the weights, so that it maps gradients too; torch stores its matrices (outputs, inputs).
"""

import jax
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


def stacked(layers: list[dict]) -> dict:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def bert_params(weights: Weights, cfg: ModelConfig) -> dict:
    """transformers' BertFor...: whichever heads it has."""

    def block(at):
        return {
            "attention": attention(
                weights, cfg, *(f"{at}.attention.self.{x}" for x in ("query", "key", "value")),
                f"{at}.attention.output.dense",
            ),
            "attention_norm": norm(weights, f"{at}.attention.output.LayerNorm"),
            "mlp": mlp(weights, cfg, f"{at}.intermediate.dense", f"{at}.output.dense"),
            "mlp_norm": norm(weights, f"{at}.output.LayerNorm"),
        }  # fmt: skip

    width, table = (cfg.d_model,), "bert.embeddings.{}_embeddings.weight"
    params = {
        "embedding": {
            "token": weights[table.format("word")],
            "position": weights[table.format("position")],
            "segment": weights[table.format("token_type")],
            "norm": norm(weights, "bert.embeddings.LayerNorm"),
        },
        "layers": stacked([block(f"bert.encoder.layer.{i}") for i in range(cfg.n_layers)]),
    }
    if "cls.predictions.bias" in weights:
        params["mlm"] = {
            "transform": linear(weights, "cls.predictions.transform.dense", width, width),
            "norm": norm(weights, "cls.predictions.transform.LayerNorm"),
            "bias": weights["cls.predictions.bias"],
        }
    if "bert.pooler.dense.weight" in weights:
        params["pooler"] = linear(weights, "bert.pooler.dense", width, width)
    if "cls.seq_relationship.weight" in weights:
        params["next_sentence"] = linear(weights, "cls.seq_relationship", width, (2,))
    if "classifier.weight" in weights:
        params["classifier"] = linear(weights, "classifier", width, (cfg.n_classes,))
    return params


def marian_params(weights: Weights, cfg: ModelConfig) -> dict:
    """transformers' MarianMTModel with shared embeddings."""

    def heads(at):
        return attention(weights, cfg, *(f"{at}.{x}_proj" for x in ("q", "k", "v", "out")))

    def block(at):
        return {
            "attention": heads(f"{at}.self_attn"),
            "attention_norm": norm(weights, f"{at}.self_attn_layer_norm"),
            "mlp": mlp(weights, cfg, f"{at}.fc1", f"{at}.fc2"),
            "mlp_norm": norm(weights, f"{at}.final_layer_norm"),
        }

    def cross(at):
        return {"cross": heads(f"{at}.encoder_attn"), "cross_norm": norm(weights, f"{at}.encoder_attn_layer_norm")}

    encoder = [f"model.encoder.layers.{i}" for i in range(cfg.n_encoder_layers)]
    decoder = [f"model.decoder.layers.{i}" for i in range(cfg.n_layers)]
    return {
        "embedding": {"token": weights["model.shared.weight"]},
        "encoder": {"layers": stacked([block(at) for at in encoder])},
        "decoder": {"layers": stacked([block(at) | cross(at) for at in decoder])},
    }


def t5_params(weights: Weights, cfg: ModelConfig, root: float) -> dict:
    """transformers' T5 1.1. root: what a query's kernel times, as T5 leaves the division of the scores by a root out.

    Of parameters the root of a head's width, of gradients its inverse.
    """

    def heads(at):
        params = attention(weights, cfg, *(f"{at}.{x}" for x in "qkvo"))
        params["query"]["kernel"] = params["query"]["kernel"] * root
        return params

    def block(at, last):
        width, hidden, mlp = (cfg.d_model,), (cfg.ff_width,), f"{at}.layer.{last}.DenseReluDense"
        return {
            "attention": heads(f"{at}.layer.0.SelfAttention"),
            "attention_norm": norm(weights, f"{at}.layer.0.layer_norm"),
            "mlp": {
                "gate": linear(weights, f"{mlp}.wi_0", width, hidden),
                "up": linear(weights, f"{mlp}.wi_1", width, hidden),
                "down": linear(weights, f"{mlp}.wo", hidden, width),
            },
            "mlp_norm": norm(weights, f"{at}.layer.{last}.layer_norm"),
        }

    def cross(at):
        at = f"{at}.layer.1"
        return {"cross": heads(f"{at}.EncDecAttention"), "cross_norm": norm(weights, f"{at}.layer_norm")}

    def side(name, layers):
        return {
            "layers": stacked(layers),
            "relative": weights[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
            "final_norm": norm(weights, f"{name}.final_layer_norm"),
        }

    encoder = [f"encoder.block.{i}" for i in range(cfg.n_encoder_layers)]
    decoder = [f"decoder.block.{i}" for i in range(cfg.n_layers)]
    return {
        "embedding": {"token": weights["shared.weight"]},
        "encoder": side("encoder", [block(at, 1) for at in encoder]),
        "decoder": side("decoder", [block(at, 2) | cross(at) for at in decoder]),
    }


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
