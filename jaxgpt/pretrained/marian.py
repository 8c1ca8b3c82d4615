"""Marian's translators (opus-mt) as transformers stores them: the Transformer of 2017, one embedding for all."""

from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, linear, norm
from jaxgpt.pretrained.mapping import Stored


def read(fields: Fields, head: str) -> ModelConfig:
    """head: "lm", the only one."""
    vocab_size, heads = fields.get("vocab_size", 58101), fields.get("encoder_attention_heads", 16)
    hidden, layers = fields.get("encoder_ffn_dim", 4096), fields.get("encoder_layers", 12)
    fields.expect("is_encoder_decoder", True)
    fields.expect("share_encoder_decoder_embeddings", True)
    fields.expect("tie_word_embeddings", True)
    fields.expect("decoder_vocab_size", vocab_size, None)
    fields.expect("decoder_attention_heads", heads)
    fields.expect("decoder_ffn_dim", hidden)
    fields.expect("num_hidden_layers", layers)
    fields.expect("static_position_embeddings", True)
    for name in ("add_bias_logits", "add_final_layer_norm", "normalize_before", "normalize_embedding"):
        fields.expect(name, False)
    # Whole layers are dropped in training; another head is; learned positions have more rows.
    fields.ignore("encoder_layerdrop", "decoder_layerdrop", "classif_dropout", "classifier_dropout")
    fields.ignore("extra_pos_embeddings")
    return ModelConfig(
        architecture="encoder-decoder",
        vocab_size=vocab_size,
        context_length=fields.get("max_position_embeddings", 1024),
        d_model=fields.get("d_model", 1024),
        n_layers=fields.get("decoder_layers", 12),
        n_encoder_layers=layers,
        n_heads=heads,
        d_ff=hidden,
        norm_position="post",
        position="sinusoidal_split",
        embedding_scale=fields.get("scale_embedding", False),
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu"),
        head_bias=True,
        dropout=fields.dropout("dropout", "attention_dropout", "activation_dropout"),
        init_std=fields.get("init_std", 0.02),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length,
        "d_model": cfg.d_model,
        "encoder_layers": cfg.encoder_layers,
        "decoder_layers": cfg.n_layers,
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), cfg.n_heads),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), cfg.ff_width),
        "scale_embedding": cfg.embedding_scale,
        "activation_function": ACTIVATION_NAMES[cfg.activation],
        "dropout": cfg.dropout,
        "init_std": cfg.init_std,
        "pad_token_id": cfg.vocab_size - 1,  # as in all of them; transformers wants one within the vocabulary
    }


def tensors(cfg: ModelConfig) -> dict:
    def heads(at):
        inputs = {name: linear(f"{at}.{name[0]}_proj", outputs=2) for name in ("query", "key", "value")}
        return inputs | {"output": linear(f"{at}.out_proj", inputs=2)}

    def block(at):
        return {
            "attention": heads(f"{at}.self_attn"),
            "attention_norm": norm(f"{at}.self_attn_layer_norm"),
            "cross": heads(f"{at}.encoder_attn"),
            "cross_norm": norm(f"{at}.encoder_attn_layer_norm"),
            "mlp": {"up": linear(f"{at}.fc1"), "down": linear(f"{at}.fc2")},
            "mlp_norm": norm(f"{at}.final_layer_norm"),
        }

    def side(name, n_layers):
        return {"layers": tuple(block(f"model.{name}.layers.{i}") for i in range(n_layers))}

    mapping = {
        "embedding": {"token": Stored("model.shared.weight")},
        "encoder": side("encoder", cfg.encoder_layers),
        "decoder": side("decoder", cfg.n_layers),
        "head_bias": Stored("final_logits_bias", ((), (0,))),
    }
    return declared(mapping, cfg)


FAMILIES = {
    "marian": Family(
        name="marian",
        kind="encoder-decoder",
        architectures={"MarianMTModel": "lm"},
        read=read,
        write=write,
        tensors=tensors,
        ignored=("model.*.embed_positions.weight",),  # sines
        copies=dict.fromkeys(
            ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
            "model.shared.weight",
        ),
    )
}
