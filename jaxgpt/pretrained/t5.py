"""T5 as transformers stores it: 1.0 (t5-small), and 1.1 with a gated MLP and a head of its own (flan-t5)."""

from dataclasses import replace
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATIONS, declared, linear, norm
from jaxgpt.pretrained.mapping import Stored

HEAD = "lm_head"
# feed_forward_proj -> what it is in transformers: the activation's name, and whether the MLP is gated.
PROJECTIONS = {name: (name, False) for name in ACTIVATIONS} | {f"gated-{name}": (name, True) for name in ACTIVATIONS}
PROJECTIONS |= {"gated-gelu": ("gelu_new", True)}  # in files before there was a field of its own


def read(fields: Fields, head: str) -> ModelConfig:
    """head: "lm", the only one. Positions are relative and without end: context_length is 512 where no field says."""
    activation, gated = fields.choose("feed_forward_proj", PROJECTIONS, "relu")
    fields.expect("dense_act_fn", activation)
    fields.expect("is_gated_act", gated)
    fields.expect("is_encoder_decoder", True)
    fields.ignore("classifier_dropout")  # of another head
    layers, width = fields.get("num_layers", 6), fields.get("d_model", 512)
    decoder_layers = fields.get("num_decoder_layers", None, int)
    tied = fields.get("tie_word_embeddings", True)
    # transformers 5 says it in a field of its own, and that all are tied: whether they are shows in the file.
    scaled = fields.get("scale_decoder_outputs", tied)
    return ModelConfig(
        architecture="encoder-decoder",
        vocab_size=fields.get("vocab_size", 32128),
        context_length=fields.get("n_positions", 512),
        d_model=width,
        n_layers=layers if decoder_layers is None else decoder_layers,
        n_encoder_layers=layers,
        n_heads=fields.get("num_heads", 8),
        head_dim=fields.get("d_kv", 64),
        d_ff=fields.get("d_ff", 2048),
        norm="rms",
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-6),
        position="relative",
        relative_buckets=fields.get("relative_attention_num_buckets", 32),
        relative_max_distance=fields.get("relative_attention_max_distance", 128),
        activation=ACTIVATIONS[activation],
        gated=gated,
        bias=False,
        attention_scale=1.0,
        tie_embeddings=tied,
        logit_scale=width**-0.5 if scaled else None,
        dropout=fields.dropout("dropout_rate"),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    projections = {(ACTIVATIONS[name], gated): theirs for theirs, (name, gated) in reversed(PROJECTIONS.items())}
    return {
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.context_length,
        "d_model": cfg.d_model,
        "num_layers": cfg.encoder_layers,
        "num_decoder_layers": cfg.n_layers,
        "num_heads": cfg.n_heads,
        "d_kv": cfg.head_width,
        "d_ff": cfg.ff_width,
        "layer_norm_epsilon": cfg.norm_epsilon,
        "relative_attention_num_buckets": cfg.relative_buckets or 32,
        "relative_attention_max_distance": cfg.relative_max_distance or 128,
        "feed_forward_proj": projections[cfg.activation, cfg.gated],
        "tie_word_embeddings": cfg.tie_embeddings,
        "scale_decoder_outputs": cfg.logit_scale is not None,
        "dropout_rate": cfg.dropout,
    }


def settle(cfg: ModelConfig, names: set[str]) -> ModelConfig:
    return replace(cfg, tie_embeddings=f"{HEAD}.weight" not in names)


def tensors(cfg: ModelConfig) -> dict:
    def heads(at):
        inputs = {name: linear(f"{at}.{name[0]}", outputs=2) for name in ("query", "key", "value")}
        return inputs | {"output": linear(f"{at}.o", inputs=2)}

    def block(at, cross):
        mlp = f"{at}.layer.{2 if cross else 1}"
        up = "wi_1" if cfg.gated else "wi"
        return {
            "attention": heads(f"{at}.layer.0.SelfAttention"),
            "attention_norm": norm(f"{at}.layer.0.layer_norm"),
            "cross": heads(f"{at}.layer.1.EncDecAttention"),
            "cross_norm": norm(f"{at}.layer.1.layer_norm"),
            "mlp": {
                "up": linear(f"{mlp}.DenseReluDense.{up}"),
                "gate": linear(f"{mlp}.DenseReluDense.wi_0"),
                "down": linear(f"{mlp}.DenseReluDense.wo"),
            },
            "mlp_norm": norm(f"{mlp}.layer_norm"),
        }

    def side(name, n_layers):
        return {
            "layers": tuple(block(f"{name}.block.{i}", name == "decoder") for i in range(n_layers)),
            # The first block's, which all of them use.
            "relative": Stored(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            "final_norm": norm(f"{name}.final_layer_norm"),
        }

    mapping = {
        "embedding": {"token": Stored("shared.weight")},
        "encoder": side("encoder", cfg.encoder_layers),
        "decoder": side("decoder", cfg.n_layers),
        "head": linear(HEAD),
    }
    return declared(mapping, cfg)


FAMILIES = {
    "t5": Family(
        name="t5",
        kind="encoder-decoder",
        architectures={"T5ForConditionalGeneration": "lm"},
        read=read,
        write=write,
        tensors=tensors,
        settle=settle,
        ignored=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),  # of no function
        copies=dict.fromkeys(
            ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", f"{HEAD}.weight"), "shared.weight"
        ),
    )
}
