"""Llama and those of its build: Mistral, with a sliding window; Qwen2, with biases; Qwen3, with normalised queries."""

from functools import partial
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, label_fields, linear, n_classes, norm
from jaxgpt.pretrained.mapping import Stored
from jaxgpt.pretrained.rope import read_rope, write_rope

# What transformers takes for a number that config.json leaves out, where the families differ.
_ABSENT = {
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32000, "intermediate_size": 14336, "max_position_embeddings": 131072, "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {
        "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "num_key_value_heads": 32,
        "sliding_window": 4096,
    },
    "qwen3": {
        "vocab_size": 151936, "intermediate_size": 22016, "max_position_embeddings": 32768, "num_key_value_heads": 32,
        "sliding_window": 4096, "head_dim": 128,
    },
}  # fmt: skip


def read(name: str, fields: Fields, head: str) -> ModelConfig:
    """name: of the family."""
    absent = _ABSENT[name]

    def optional(field: str) -> int | None:
        return fields.get(field, None, int) if field in fields else absent.get(field)

    context_length = fields.get("max_position_embeddings", absent["max_position_embeddings"])
    n_layers = fields.get("num_hidden_layers", 32)
    rope = read_rope(fields, context_length)
    biased, mlp_biased, window = False, False, None
    if name in ("llama", "qwen3"):
        biased = fields.get("attention_bias", False)
    if name == "llama":
        mlp_biased = fields.get("mlp_bias", False)
        fields.ignore("pretraining_tp")  # the order of sums
        fields.expect("rope_interleaved", False)
        fields.expect("max_sequence_length", context_length)  # the same, in files of 2023
        fields.ignore("is_llama_config")
    if name == "mistral":
        window = optional("sliding_window")
    if name in ("qwen2", "qwen3"):
        window = _window(fields, n_layers, optional("sliding_window"))
        fields.expect("use_mrope", False)
    fields.expect("attention_dropout", 0.0)  # alone: where ours acts, it acts everywhere
    return ModelConfig(
        vocab_size=fields.get("vocab_size", absent["vocab_size"]),
        context_length=context_length,
        d_model=fields.get("hidden_size", 4096),
        n_layers=n_layers,
        n_heads=fields.get("num_attention_heads", 32),
        n_kv_heads=optional("num_key_value_heads"),
        head_dim=optional("head_dim"),
        d_ff=fields.get("intermediate_size", absent["intermediate_size"]),
        norm="rms",
        norm_epsilon=fields.get("rms_norm_eps", 1e-6),
        position="rotary",
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        window=window,
        activation=fields.choose("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        bias=False,
        attention_bias="inputs" if name == "qwen2" else "all" if biased else None,
        mlp_bias=mlp_biased or None,
        qk_norm=name == "qwen3",
        tie_embeddings=fields.get("tie_word_embeddings", False),
        head=head,
        n_classes=n_classes(fields, head),
        init_std=fields.get("initializer_range", 0.02),
    )


def _window(fields: Fields, n_layers: int, width: int | None) -> int | None:
    """Of Qwen's layers, of which only those from max_window_layers on may have one: all or none."""
    slides = fields.get("use_sliding_window", False) and width is not None
    first = fields.get("max_window_layers", 28)
    kinds = ["sliding_attention" if slides and i >= first else "full_attention" for i in range(n_layers)]
    kinds = fields.get("layer_types", None, list) or kinds
    alike = [["full_attention"] * n_layers] + [["sliding_attention"] * n_layers] * slides
    where = "layer_types" if "layer_types" in fields else "max_window_layers"
    fields.check(where, kinds in alike, f"a window of all {n_layers} layers or of none, and use_sliding_window with it")
    return width if kinds == alike[-1] and slides else None


def write(name: str, cfg: ModelConfig) -> dict[str, Any]:
    fields = {
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.ff_width,
        "rms_norm_eps": cfg.norm_epsilon,
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "tie_word_embeddings": cfg.tie_embeddings,
        "attention_dropout": 0.0,
        "initializer_range": cfg.init_std,
        "bos_token_id": None,  # left out, it would be 1
        **write_rope(cfg),
        **label_fields(cfg),
    }
    if name in ("llama", "qwen3"):
        fields["attention_bias"] = cfg.bias if cfg.attention_bias is None else cfg.attention_bias == "all"
    if name == "llama":
        fields["mlp_bias"] = cfg.bias if cfg.mlp_bias is None else cfg.mlp_bias
    if name == "mistral":
        fields["sliding_window"] = cfg.window
    if name in ("qwen2", "qwen3"):
        fields |= {"use_sliding_window": cfg.window is not None, "sliding_window": cfg.window, "max_window_layers": 0}
    return fields


def tensors(cfg: ModelConfig) -> dict:
    def block(i):
        at = f"model.layers.{i}"
        return {
            "attention_norm": norm(f"{at}.input_layernorm"),
            "attention": {
                "query": linear(f"{at}.self_attn.q_proj", outputs=2),
                "key": linear(f"{at}.self_attn.k_proj", outputs=2),
                "value": linear(f"{at}.self_attn.v_proj", outputs=2),
                "output": linear(f"{at}.self_attn.o_proj", inputs=2),
                "query_norm": norm(f"{at}.self_attn.q_norm"),
                "key_norm": norm(f"{at}.self_attn.k_norm"),
            },
            "mlp_norm": norm(f"{at}.post_attention_layernorm"),
            "mlp": {name: linear(f"{at}.mlp.{name}_proj") for name in ("gate", "up", "down")},
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
    name: Family(
        name=name,
        kind="decoder",
        architectures={f"{model}ForCausalLM": "lm", f"{model}ForSequenceClassification": "sequence"},
        read=partial(read, name),
        write=partial(write, name),
        tensors=tensors,
        prefix="model.",
        copies={"lm_head.weight": "model.embed_tokens.weight"},
        ignored=("*.rotary_emb.inv_freq",),  # which follow from the config
    )
    for name, model in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"))
}
