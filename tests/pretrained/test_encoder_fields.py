"""Every field of the config.json of encoders and encoder-decoders, changed alone: followed, harmless, or refused."""

import json
from dataclasses import replace

import numpy as np
import peers
import pytest
from test_encoder_families import outputs
from test_translator_families import logits

from jaxgpt.pretrained import fields
from jaxgpt.pretrained.family import find
from jaxgpt.pretrained.fields import Fields
from jaxgpt.pretrained.folder import read_model

BERT = peers.BERT | {"num_hidden_layers": 1}
ROBERTA = peers.ROBERTA | {"num_hidden_layers": 1}
DISTIL = peers.DISTIL | {"n_layers": 1}
MARIAN = peers.MARIAN | {"encoder_layers": 1}
T5 = peers.T5 | {"num_layers": 1}
BASES = {
    "bert": ("BertForMaskedLM", BERT),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "distilbert": ("DistilBertForMaskedLM", DISTIL),
    "marian": ("MarianMTModel", MARIAN),
    "t5": ("T5ForConditionalGeneration", T5),
}
# Logits are those of transformers with the same change.
FOLLOWED = {
    "bert": {
        "vocab_size": 41, "hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 9,
        "max_position_embeddings": 17, "type_vocab_size": 2, "layer_norm_eps": 0.3, "hidden_act": "relu",
        "tie_word_embeddings": False,
    },
    "roberta": {"max_position_embeddings": 19, "pad_token_id": 1, "type_vocab_size": 2, "layer_norm_eps": 0.3},
    "distilbert": {
        "vocab_size": 41, "dim": 20, "n_layers": 2, "n_heads": 3, "hidden_dim": 9, "max_position_embeddings": 17,
        "activation": "relu", "tie_word_embeddings": False,
    },
    "marian": {
        "vocab_size": 41, "d_model": 18, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 30,
        "scale_embedding": False, "activation_function": "swish",
    },
    "t5": {
        "vocab_size": 41, "d_model": 13, "d_kv": 5, "d_ff": 9, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 3, "relative_attention_num_buckets": 12, "relative_attention_max_distance": 7,
        "layer_norm_epsilon": 0.3, "feed_forward_proj": "gated-silu", "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
    },
}  # fmt: skip
TRAINING = {"initializer_range": 0.3, "attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.3}
BERT_HARMLESS = {**TRAINING, "classifier_dropout": 0.4, "bos_token_id": 5, "eos_token_id": 5}
# Nothing that is computed without dropout changes, in transformers neither.
HARMLESS = {
    "bert": {**BERT_HARMLESS, "pad_token_id": 4, "pooler_fc_size": 3, "gradient_checkpointing": True},
    "roberta": BERT_HARMLESS,
    "distilbert": {
        "initializer_range": 0.3, "dropout": 0.3, "attention_dropout": 0.3, "qa_dropout": 0.3,
        "seq_classif_dropout": 0.3, "sinusoidal_pos_embds": True, "pad_token_id": 4, "bos_token_id": 5,
        "eos_token_id": 5,
    },
    "marian": {
        "init_std": 0.3, "dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3, "encoder_layerdrop": 0.3,
        "decoder_layerdrop": 0.3, "pad_token_id": 4, "decoder_start_token_id": 4, "eos_token_id": 4, "bos_token_id": 4,
        "forced_eos_token_id": 4, "num_beams": 6, "bad_words_ids": [[30]], "_num_labels": 3, "classif_dropout": 0.1,
        "extra_pos_embeddings": 31,
    },
    "t5": {
        "dropout_rate": 0.3, "classifier_dropout": 0.3, "initializer_factor": 0.3, "pad_token_id": 4,
        "decoder_start_token_id": 4, "eos_token_id": 4, "output_past": True,
        "task_specific_params": {"summarization": {"prefix": "summarize: ", "num_beams": 4}},
    },
}  # fmt: skip
DECODER = {"is_decoder": True, "add_cross_attention": True}
REFUSED = {
    "bert": {
        **DECODER, "position_embedding_type": "relative_key", "hidden_act": "mish", "pooler_type": "last",
        "directionality": "uni", "quantization_config": {"bits": 4}, "rope_theta": 1e4, "layer_norm_eps": "1e-12",
    },
    "roberta": {**DECODER, "position_embedding_type": "relative_key", "hidden_act": "relu", "pad_token_id": 1.5},
    "distilbert": {"activation": "mish", "tie_weights_": False, "hidden_size": 12},
    "marian": {
        "decoder_vocab_size": 30, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 18,
        "decoder_ffn_dim": 18, "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False,
        "is_encoder_decoder": False, "is_decoder": True, "normalize_before": True, "normalize_embedding": True,
        "add_bias_logits": True, "add_final_layer_norm": True, "static_position_embeddings": False,
        "num_hidden_layers": 7, "d_model": 13,
    },
    "t5": {
        "is_encoder_decoder": False, "is_decoder": True, "dense_act_fn": "gelu", "is_gated_act": True,
        "feed_forward_proj": "gated-mish", "relative_attention_num_buckets": 3,
    },
}  # fmt: skip
# Their mistake shows in another field, which is checked against it.
NAMED = {"encoder_attention_heads": "decoder_attention_heads", "encoder_ffn_dim": "decoder_ffn_dim"}
NAMED |= {"relative_attention_num_buckets": "relative_buckets"}


def cases(table):
    return [(family, field, value) for family, changes in table.items() for field, value in changes.items()]


@pytest.fixture(scope="module")
def config_of(tmp_path_factory):
    """The config.json that transformers writes for each family, made once."""
    made = {}

    def find_it(family):
        if family not in made:
            pytest.importorskip("transformers")
            folder = tmp_path_factory.mktemp(family)
            name, values = BASES[family]
            peers.make(name, values, folder)
            made[family] = json.loads((folder / "config.json").read_text())
        return made[family]

    return find_it


def read(values):
    family = find(values["model_type"])
    found = Fields(values, "config.json")
    cfg = family.read(found, "lm")
    found.finish()
    return cfg


@pytest.mark.parametrize(("family", "field", "value"), cases(FOLLOWED))
def test_a_field_is_followed_as_transformers_follows_it(family, field, value, tmp_path):
    pytest.importorskip("transformers")
    name, values = BASES[family]
    values = values | {field: value}
    if family == "marian" and field == "vocab_size":
        values |= {"decoder_vocab_size": value}
    peer = peers.make(name, values, tmp_path)
    model = read_model(tmp_path)
    assert read(json.loads((tmp_path / "config.json").read_text())) == replace(model.config, dtype="float32")
    if family in ("marian", "t5"):
        inputs = peers.translator_inputs(values)
        found, wanted, real = logits(model, inputs), peers.translator_logits(peer, inputs), inputs["target_mask"]
    else:
        inputs = peers.encoder_inputs(values)
        found, wanted = (f["logits"] for f in (outputs(model, inputs), peers.encoder_outputs(peer, inputs)))
        real = inputs["mask"]
    np.testing.assert_allclose(np.asarray(found)[real], wanted[real], atol=3e-5)


@pytest.mark.parametrize(("family", "field", "value"), cases(HARMLESS))
@pytest.mark.filterwarnings("ignore:.*training drops")
def test_a_field_is_harmless(family, field, value, config_of):
    base, found = read(dict(config_of(family))), read(config_of(family) | {field: value})
    assert replace(found, dropout=base.dropout, init_std=base.init_std) == base


@pytest.mark.parametrize(("family", "field", "value"), cases(REFUSED))
def test_a_field_is_refused_by_name(family, field, value, config_of):
    with pytest.raises(ValueError, match=NAMED.get(field, field)):
        read(config_of(family) | {field: value})


@pytest.mark.parametrize("family", BASES)
def test_no_field_is_left_out(family, config_of):
    """Of those that transformers writes."""
    shared = FOLLOWED["bert"] if family == "roberta" else {}  # which reads as BERT does
    tried = {*FOLLOWED[family], *HARMLESS[family], *REFUSED[family], *shared}
    left = config_of(family).keys() - tried - {"architectures", "dtype", "model_type", "transformers_version"}
    assert left <= {"use_cache", "n_positions"}
    assert "use_cache" in fields._HARMLESS


def test_t5_has_no_longest_text_but_one_may_be_said(config_of):
    base = {name: x for name, x in config_of("t5").items() if name != "n_positions"}
    assert read(dict(base)).context_length == 512
    assert read(base | {"n_positions": 99}).context_length == 99
