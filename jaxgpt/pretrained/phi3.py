"""Phi-3 and Phi-4-mini: a Llama with fused projections, whose long models read a text by its length."""

import math
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, label_fields, linear, n_classes, norm
from jaxgpt.pretrained.mapping import Part, Stored
from jaxgpt.pretrained.rope import ORIGINAL, read_rope, write_rope

KINDS = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}  # the last two are old


def read(fields: Fields, head: str) -> ModelConfig:
    context_length = fields.get("max_position_embeddings", 4096)
    d_model, n_heads = fields.get("hidden_size", 3072), fields.get("num_attention_heads", 32)
    original_length = fields.get(ORIGINAL, 4096)
    rope = read_rope(fields, context_length, kinds=KINDS, original_length=original_length, partial=True)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):  # of Phi-4-mini's own code, as the next
        fields.expect(name, False)
    fields.expect("full_attn_mod", 1)
    fields.expect("interpolate_factor", 1)
    return ModelConfig(
        vocab_size=fields.get("vocab_size", 32064),
        context_length=context_length,
        d_model=d_model,
        n_layers=fields.get("num_hidden_layers", 32),
        n_heads=n_heads,
        n_kv_heads=fields.get("num_key_value_heads", None, int),
        d_ff=fields.get("intermediate_size", 8192),
        norm="rms",
        norm_epsilon=fields.get("rms_norm_eps", 1e-5),
        position="rotary",
        rope_theta=rope.theta,
        rope_width=None if rope.share == 1 else int(d_model // n_heads * rope.share),
        rope_scaling=rope.scaling,
        window=fields.get("sliding_window", None, int),
        activation=fields.choose("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        bias=False,
        tie_embeddings=fields.get("tie_word_embeddings", False),
        head=head,
        n_classes=n_classes(fields, head),
        dropout=fields.dropout("resid_pdrop", "embd_pdrop", "attention_dropout", default=0.0),
        init_std=fields.get("initializer_range", 0.02),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    rope, share = write_rope(cfg), cfg.rotary_width / cfg.head_width
    if int(cfg.head_width * share) < cfg.rotary_width:  # rounded down
        share = math.nextafter(share, 1)
    rope["rope_parameters"]["partial_rotary_factor"] = share
    original_length = cfg.context_length
    if (scaling := rope["rope_scaling"]) is not None:
        original_length = scaling.pop(ORIGINAL, original_length)
        scaling["type"] = scaling.pop("rope_type")  # Phi-3's first code knows no other name
    return {
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length,
        ORIGINAL: original_length,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.kv_heads,
        "intermediate_size": cfg.ff_width,
        "rms_norm_eps": cfg.norm_epsilon,
        "partial_rotary_factor": share,
        "sliding_window": cfg.window,
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "tie_word_embeddings": cfg.tie_embeddings,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attention_dropout"), cfg.dropout),
        "initializer_range": cfg.init_std,
        **dict.fromkeys(("bos_token_id", "pad_token_id")),  # left out, they would be ids of the first models
        **rope,
        **label_fields(cfg),
    }


def tensors(cfg: ModelConfig) -> dict:
    queries, keys = cfg.n_heads * cfg.head_width, cfg.kv_heads * cfg.head_width
    starts = {"query": 0, "key": queries, "value": queries + keys}

    def block(i):
        at = f"model.layers.{i}"

        def attention(start):
            return linear(f"{at}.self_attn.qkv_proj", outputs=2, part=Part(0, start, queries + 2 * keys))

        def mlp(start):
            return linear(f"{at}.mlp.gate_up_proj", part=Part(0, start, 2 * cfg.ff_width))

        return {
            "attention_norm": norm(f"{at}.input_layernorm"),
            "attention": {name: attention(start) for name, start in starts.items()}
            | {"output": linear(f"{at}.self_attn.o_proj", inputs=2)},
            "mlp_norm": norm(f"{at}.post_attention_layernorm"),
            "mlp": {"gate": mlp(0), "up": mlp(cfg.ff_width), "down": linear(f"{at}.mlp.down_proj")},
        }

    mapping = {
        "embedding": {"token": Stored("model.embed_tokens.weight")},
        "layers": tuple(block(i) for i in range(cfg.n_layers)),
        "final_norm": norm("model.norm"),
        "head": linear("lm_head"),
        "classifier": linear("score"),
    }
    return declared(mapping, cfg)


FAMILIES = {
    "phi3": Family(
        name="phi3",
        kind="decoder",
        architectures={"Phi3ForCausalLM": "lm", "Phi3ForSequenceClassification": "sequence"},
        read=read,
        write=write,
        tensors=tensors,
        prefix="model.",
        copies={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=("*.rotary_emb.inv_freq",),
    )
}
