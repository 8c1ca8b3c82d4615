"""DistilBERT as transformers stores it: BERT without segments and pooler, under other names."""

from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained.bert import POSITIONS
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import ACTIVATION_NAMES, ACTIVATIONS, declared, label_fields, linear, n_classes, norm
from jaxgpt.pretrained.mapping import Stored

PREFIX = "distilbert."
EPSILON = 1e-12  # no field says it


def read(fields: Fields, head: str) -> ModelConfig:
    fields.expect("tie_weights_", True)
    fields.ignore("sinusoidal_pos_embds", "qa_dropout")  # how the table began, which the file holds; of another head
    others = ("attention_dropout", *(["seq_classif_dropout"] if head == "sequence" else []))
    fields.ignore("seq_classif_dropout")
    return ModelConfig(
        architecture="encoder",
        vocab_size=fields.get("vocab_size", 30522),
        context_length=fields.get("max_position_embeddings", 512),
        d_model=fields.get("dim", 768),
        n_layers=fields.get("n_layers", 6),
        n_heads=fields.get("n_heads", 12),
        d_ff=fields.get("hidden_dim", 3072),
        norm_position="post",
        norm_epsilon=EPSILON,
        embedding_norm=True,
        activation=fields.choose("activation", ACTIVATIONS, "gelu"),
        tie_embeddings=fields.get("tie_word_embeddings", True),
        head=head,
        pooler_activation="relu" if head == "sequence" else None,
        n_classes=n_classes(fields, head),
        dropout=fields.dropout("dropout", *others),
        init_std=fields.get("initializer_range", 0.02),
    )


def write(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": cfg.vocab_size,
        "max_position_embeddings": cfg.context_length,
        "dim": cfg.d_model,
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "hidden_dim": cfg.ff_width,
        "activation": ACTIVATION_NAMES[cfg.activation],
        "tie_word_embeddings": cfg.tie_embeddings,
        **dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), cfg.dropout),
        "initializer_range": cfg.init_std,
        **label_fields(cfg),
    }


def tensors(cfg: ModelConfig) -> dict:
    at = "" if cfg.head == "none" else PREFIX

    def block(i):
        layer = f"{at}transformer.layer.{i}"
        heads = {"query": "q", "key": "k", "value": "v"}
        inputs = {name: linear(f"{layer}.attention.{letter}_lin", outputs=2) for name, letter in heads.items()}
        return {
            "attention": inputs | {"output": linear(f"{layer}.attention.out_lin", inputs=2)},
            "attention_norm": norm(f"{layer}.sa_layer_norm"),
            "mlp": {"up": linear(f"{layer}.ffn.lin1"), "down": linear(f"{layer}.ffn.lin2")},
            "mlp_norm": norm(f"{layer}.output_layer_norm"),
        }

    tables = {"token": "word_embeddings", "position": "position_embeddings"}
    embedding = {name: Stored(f"{at}embeddings.{theirs}.weight") for name, theirs in tables.items()}
    mapping = {
        "embedding": embedding | {"norm": norm(f"{at}embeddings.LayerNorm")},
        "layers": tuple(block(i) for i in range(cfg.n_layers)),
        "mlm": {
            "transform": linear("vocab_transform"),
            "norm": norm("vocab_layer_norm"),
            "bias": Stored("vocab_projector.bias"),
        },
        "head": linear("vocab_projector"),
        "pooler": linear("pre_classifier"),
        "classifier": linear("classifier"),
    }
    return declared(mapping, cfg)


FAMILIES = {
    "distilbert": Family(
        name="distilbert",
        kind="encoder",
        architectures={
            "DistilBertForMaskedLM": "lm",
            "DistilBertForSequenceClassification": "sequence",
            "DistilBertForTokenClassification": "token",
            "DistilBertModel": "none",
        },
        read=read,
        write=write,
        tensors=tensors,
        prefix=PREFIX,
        ignored=(POSITIONS, "vocab_*"),
        copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    )
}
