"""GPT-2 as transformers stores it: matrices (inputs, outputs), queries, keys and values in one."""

from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, label_fields, linear, n_classes, norm
from jaxgpt.pretrained.mapping import Part, Stored


def read(fields: Fields, head: str) -> ModelConfig:
    context_length = fields.get("n_positions", 1024)
    fields.expect("n_ctx", context_length)  # the same, in files of 2019
    fields.expect("scale_attn_weights", True)
    fields.expect("scale_attn_by_inverse_layer_idx", False)
    # Scores are float32 here in any case; the summary is another head's.
    fields.ignore("reorder_and_upcast_attn", "summary_activation", "summary_first_dropout", "summary_proj_to_labels")
    fields.ignore("summary_type", "summary_use_proj")
    return ModelConfig(
        vocab_size=fields.get("vocab_size", 50257),
        context_length=context_length,
        d_model=fields.get("n_embd", 768),
        n_layers=fields.get("n_layer", 12),
        n_heads=fields.get("n_head", 12),
        d_ff=fields.get("n_inner", None, int),
        norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu_new"),
        tie_embeddings=fields.get("tie_word_embeddings", True),
        head=head,
        n_classes=n_classes(fields, head),
        dropout=fields.dropout("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        init_std=fields.get("initializer_range", 0.02),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.context_length,
        "n_embd": cfg.d_model,
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
        "n_inner": cfg.d_ff,
        "layer_norm_epsilon": cfg.norm_epsilon,
        "activation_function": ACTIVATION_NAMES[cfg.activation],
        "tie_word_embeddings": cfg.tie_embeddings,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), cfg.dropout),
        "initializer_range": cfg.init_std,
        **dict.fromkeys(("bos_token_id", "pad_token_id")),  # left out, they would be ids of the first models
        **label_fields(cfg),
    }


def tensors(cfg: ModelConfig) -> dict:
    def conv1d(name, inputs=1, outputs=1, part=None):
        """transformers' Conv1D: a Linear with its weight the other way round. part: which third of the outputs."""
        first, last = tuple(range(inputs)), tuple(range(inputs, inputs + outputs))
        parts = (None, None) if part is None else [Part(a, part * cfg.d_model, 3 * cfg.d_model) for a in (1, 0)]
        return {
            "kernel": Stored(f"{name}.weight", (first, last), parts[0]),
            "bias": Stored(f"{name}.bias", (tuple(range(outputs)),), parts[1]),
        }

    def block(i):
        at = f"transformer.h.{i}"
        return {
            "attention_norm": norm(f"{at}.ln_1"),
            "attention": {
                **{
                    name: conv1d(f"{at}.attn.c_attn", outputs=2, part=third)
                    for third, name in enumerate(("query", "key", "value"))
                },
                "output": conv1d(f"{at}.attn.c_proj", inputs=2),
            },
            "mlp_norm": norm(f"{at}.ln_2"),
            "mlp": {"up": conv1d(f"{at}.mlp.c_fc"), "down": conv1d(f"{at}.mlp.c_proj")},
        }

    mapping = {
        "embedding": {"token": Stored("transformer.wte.weight"), "position": Stored("transformer.wpe.weight")},
        "layers": tuple(block(i) for i in range(cfg.n_layers)),
        "final_norm": norm("transformer.ln_f"),
        "head": linear("lm_head"),
        "classifier": linear("score"),
    }
    return declared(mapping, cfg)


FAMILIES = {
    "gpt2": Family(
        name="gpt2",
        kind="decoder",
        architectures={
            "GPT2LMHeadModel": "lm",
            "GPT2Model": "lm",  # which has the head, as the two are tied
            "GPT2ForSequenceClassification": "sequence",
        },
        read=read,
        write=write,
        tensors=tensors,
        prefix="transformer.",
        copies={"lm_head.weight": "transformer.wte.weight"},
        ignored=("*.attn.bias", "*.attn.masked_bias"),  # causal masks
    )
}
