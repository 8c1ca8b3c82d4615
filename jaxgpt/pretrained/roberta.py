"""RoBERTa, and XLM-RoBERTa, as transformers stores them: BERT with one segment, and positions after the padding's."""

from dataclasses import replace
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.pretrained import bert
from jaxgpt.pretrained.family import Family
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.layers import declared, linear, norm
from jaxgpt.pretrained.mapping import Stored

PREFIX = "roberta."


def read(fields: Fields, head: str) -> ModelConfig:
    cfg = bert.read_encoder(fields, head)
    if head == "lm":
        fields.expect("hidden_act", "gelu")  # the head has it whatever the layers have
    # Row pad_token_id of the table is the padding's, and the text's begin after it.
    offset = fields.get("pad_token_id", 1) + 1
    return replace(cfg, context_length=cfg.context_length - offset, position_offset=offset)


def write(cfg: ModelConfig) -> dict[str, Any]:
    rows = cfg.context_length + cfg.position_offset
    return bert.write(cfg) | {"max_position_embeddings": rows, "pad_token_id": max(cfg.position_offset - 1, 0)}


def tensors(cfg: ModelConfig) -> dict:
    at = "" if cfg.head in ("pooled", "none") else PREFIX
    classifies = cfg.head == "sequence"
    mapping = bert.encoder_tensors(cfg, at) | {
        "mlm": {
            "transform": linear("lm_head.dense"),
            "norm": norm("lm_head.layer_norm"),
            "bias": Stored("lm_head.bias" if cfg.tie_embeddings else "lm_head.decoder.bias"),  # as in BERT
        },
        "head": linear("lm_head.decoder"),
        "pooler": linear("classifier.dense" if classifies else f"{at}pooler.dense"),
        "classifier": linear("classifier.out_proj" if classifies else "classifier"),
    }
    return declared(mapping, cfg)


def _family(name: str, stem: str) -> Family:
    return Family(
        name=name,
        kind="encoder",
        architectures={
            f"{stem}ForMaskedLM": "lm",
            f"{stem}ForSequenceClassification": "sequence",
            f"{stem}ForTokenClassification": "token",
            f"{stem}Model": "pooled",
        },
        read=read,
        write=write,
        tensors=tensors,
        settle=bert.settle,
        prefix=PREFIX,
        ignored=(bert.POSITIONS, "*pooler.dense.*", "lm_head.*"),
        copies={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    )


FAMILIES = {"roberta": _family("roberta", "Roberta"), "xlm-roberta": _family("xlm-roberta", "XLMRoberta")}
