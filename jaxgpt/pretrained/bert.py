"""BERT as transformers stores it, with every head that `bert` has."""

from dataclasses import replace
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, label_fields, linear, n_classes, norm
from jaxgpt.pretrained.mapping import Stored

PREFIX = "bert."
POSITIONS = "*embeddings.position_ids"  # 0, 1, 2, ... in files before 2023


def read(fields: Fields, head: str) -> ModelConfig:
    fields.expect("directionality", "bidi")
    fields.expect("pooler_type", "first_token_transform")
    sizes = ("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head")
    fields.ignore(*sizes)  # of other poolers
    return read_encoder(fields, head)


def read_encoder(fields: Fields, head: str) -> ModelConfig:
    """What BERT and its kin say alike."""
    fields.expect("position_embedding_type", "absolute")
    return ModelConfig(
        architecture="encoder",
        vocab_size=fields.get("vocab_size", 30522),
        context_length=fields.get("max_position_embeddings", 512),
        d_model=fields.get("hidden_size", 768),
        n_layers=fields.get("num_hidden_layers", 12),
        n_heads=fields.get("num_attention_heads", 12),
        d_ff=fields.get("intermediate_size", 3072),
        norm_position="post",
        norm_epsilon=fields.get("layer_norm_eps", 1e-12),
        n_segments=fields.get("type_vocab_size", 2),
        embedding_norm=True,
        activation=fields.choose("hidden_act", ACTIVATIONS, "gelu"),
        tie_embeddings=fields.get("tie_word_embeddings", True),
        head=head,
        n_classes=n_classes(fields, head),
        dropout=fields.dropout("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
        init_std=fields.get("initializer_range", 0.02),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length,
        "hidden_size": cfg.d_model,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "intermediate_size": cfg.ff_width,
        "layer_norm_eps": cfg.norm_epsilon,
        "type_vocab_size": max(cfg.n_segments, 1),  # there is a table, if of one row
        "hidden_act": ACTIVATION_NAMES[cfg.activation],
        "tie_word_embeddings": cfg.tie_embeddings,
        "hidden_dropout_prob": cfg.dropout,
        "attention_probs_dropout_prob": cfg.dropout,
        "initializer_range": cfg.init_std,
        **label_fields(cfg),
    }


def settle(cfg: ModelConfig, names: set[str]) -> ModelConfig:
    """A bare model's file may lack its pooler."""
    pooler = any(name.endswith("pooler.dense.weight") for name in names)
    return cfg if pooler or cfg.head != "pooled" else replace(cfg, head="none")


def tensors(cfg: ModelConfig) -> dict:
    at = "" if cfg.head in ("pooled", "none") else PREFIX
    head = "cls.predictions"
    mapping = encoder_tensors(cfg, at) | {
        "mlm": {
            "transform": linear(f"{head}.transform.dense"),
            "norm": norm(f"{head}.transform.LayerNorm"),
            # transformers has two, of which the second acts; they are one where the matrix is the embedding.
            "bias": Stored(f"{head}.bias" if cfg.tie_embeddings else f"{head}.decoder.bias"),
        },
        "head": linear(f"{head}.decoder"),
        "pooler": linear(f"{at}pooler.dense"),
        "next_sentence": linear("cls.seq_relationship"),
        "classifier": linear("classifier"),
    }
    return declared(mapping, cfg)


def encoder_tensors(cfg: ModelConfig, at: str) -> dict:
    """The embeddings and layers of BERT and its kin. at: what their names begin with."""

    def block(i):
        layer = f"{at}encoder.layer.{i}"
        inputs = {name: linear(f"{layer}.attention.self.{name}", outputs=2) for name in ("query", "key", "value")}
        return {
            "attention": inputs | {"output": linear(f"{layer}.attention.output.dense", inputs=2)},
            "attention_norm": norm(f"{layer}.attention.output.LayerNorm"),
            "mlp": {"up": linear(f"{layer}.intermediate.dense"), "down": linear(f"{layer}.output.dense")},
            "mlp_norm": norm(f"{layer}.output.LayerNorm"),
        }

    tables = {"token": "word_embeddings", "position": "position_embeddings", "segment": "token_type_embeddings"}
    embedding = {name: Stored(f"{at}embeddings.{theirs}.weight") for name, theirs in tables.items()}
    return {
        "embedding": embedding | {"norm": norm(f"{at}embeddings.LayerNorm")},
        "layers": tuple(block(i) for i in range(cfg.n_layers)),
    }


FAMILIES = {
    "bert": Family(
        name="bert",
        kind="encoder",
        architectures={
            "BertForMaskedLM": "lm",
            "BertForPreTraining": "pretraining",
            "BertForSequenceClassification": "sequence",
            "BertForTokenClassification": "token",
            "BertModel": "pooled",
        },
        read=read,
        write=write,
        tensors=tensors,
        settle=settle,
        prefix=PREFIX,
        # Files hold all that was pretrained, whatever their config.json names: bert-base-uncased has every head.
        ignored=(POSITIONS, "*pooler.dense.*", "cls.*"),
        copies={
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": "cls.predictions.bias",
        },
        aliases=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    )
}
