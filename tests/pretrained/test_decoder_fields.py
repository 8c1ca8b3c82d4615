"""Each field of a decoder's config.json, changed by itself: our numbers follow transformers', or it is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from decoder_peers import (
    ATOL,
    GPT2,
    LLAMA,
    LLAMA3,
    LONG,
    PHI3,
    TOKENIZER,
    YARN,
    draw_text,
    fill,
    make,
    peer_logits,
    rope,
    tensors_of,
)
from safetensors.numpy import save_file

from jaxgpt import gpt
from jaxgpt.pretrained import family as families
from jaxgpt.pretrained.fields import CONFIG, Fields
from jaxgpt.pretrained.files import SINGLE
from jaxgpt.pretrained.folder import express, read_config, read_model

ABSENT = object()
ROPE_4 = {"rope_parameters": ABSENT, "rope_theta": 500.0}  # transformers 4 has no rope_parameters
LONG_4 = {"short_factor": [1.0, 1.5, 1.25], "long_factor": [2.0, 7.0, 3.0]}
SLIDES = {"use_sliding_window": True, "sliding_window": 3}
YARN_4 = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
# Of a config.json: what is changed in it, and whether the numbers follow or stay, or what is refused.
FIELDS = {
    "GPT2": (
        GPT2,
        [
            ("follows", {"n_inner": None}),
            ("follows", {"n_head": 4}),
            ("stays", {"n_positions": 17}),
            ("follows", {"activation_function": "relu"}),
            ("follows", {"layer_norm_epsilon": 0.5}),
            ("follows", {"tie_word_embeddings": False}),
            ("stays", {"reorder_and_upcast_attn": True}),
            ("stays", {"n_ctx": 96, "summary_type": "first", "use_cache": False, "initializer_range": 1.0}),
            ("stays", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
            ("scale_attn_weights", {"scale_attn_weights": False}),
            ("scale_attn_by_inverse_layer_idx", {"scale_attn_by_inverse_layer_idx": True}),
            ("add_cross_attention", {"add_cross_attention": True}),
            ("n_ctx", {"n_ctx": 95}),
            ("activation_function", {"activation_function": "mish"}),
            ("hidden_size", {"hidden_size": 24}),
            ("foo", {"foo": 1}),
        ],
    ),
    "Llama": (
        LLAMA | rope(),
        [
            ("follows", {"rms_norm_eps": 0.5}),
            ("follows", {"num_key_value_heads": 3}),
            ("follows", {"head_dim": 6}),
            ("follows", {"hidden_act": "gelu"}),
            ("follows", {"attention_bias": True}),
            ("follows", {"mlp_bias": True}),
            ("follows", {"tie_word_embeddings": True}),
            ("follows", rope(theta=20.0)),
            ("follows", rope("linear", factor=3.0)),
            ("follows", rope("yarn", factor=None, original_max_position_embeddings=24)),
            ("follows", rope("yarn", **YARN, attention_factor=1.7)),
            ("follows", rope("longrope", **LONG, original_max_position_embeddings=8, factor=3.0)),
            ("follows", {"rope_parameters": ABSENT, "rope_theta": 20.0}),
            ("follows", {"rope_parameters": ABSENT}),
            ("follows", ROPE_4 | {"rope_scaling": {"type": "linear", "factor": 3.0}}),
            ("follows", ROPE_4 | {"rope_scaling": {"rope_type": "llama3", **LLAMA3}}),
            ("follows", ROPE_4 | {"rope_scaling": YARN_4}),
            ("follows", ROPE_4 | {"rope_scaling": YARN_4 | {"original_max_position_embeddings": ABSENT}}),
            ("stays", ROPE_4 | {"rope_scaling": None}),
            ("stays", {"rope_theta": 500.0, "pretraining_tp": 2, "max_sequence_length": 96}),
            ("stays", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {}}),  # SmolLM2
            ("max_sequence_length", {"max_sequence_length": 95}),
            ("rope_interleaved", {"rope_interleaved": True}),
            ("rope_theta", {"rope_theta": 20.0}),
            ("rope_type", rope("dynamic", factor=3.0)),
            ("type", ROPE_4 | {"rope_scaling": {"type": "dynamic", "factor": 3.0}}),
            ("rope_type", rope("foo")),
            ("beta_fast", rope("linear", factor=3.0, beta_fast=4.0)),
            ("factor", rope("linear")),
            ("rope_parameters", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
            ("partial_rotary_factor", rope(partial_rotary_factor=0.5)),
            ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
            ("sliding_window", {"sliding_window": 3}),
            ("layer_types", {"layer_types": ["sliding_attention"]}),
            ("attention_dropout", {"attention_dropout": 0.1}),
            ("hidden_act", {"hidden_act": "mish"}),
            ("rms_norm_eps", {"rms_norm_eps": "1e-5"}),
            ("quantization_config", {"quantization_config": {"bits": 4}}),
            ("foo", {"foo": 1}),
        ],
    ),
    "Mistral": (
        LLAMA | rope() | {"sliding_window": 5},
        [
            ("follows", {"sliding_window": 3}),
            ("follows", {"sliding_window": None}),
            ("follows", {"sliding_window": ABSENT}),
            ("attention_bias", {"attention_bias": True}),
            ("layer_types", {"layer_types": ["full_attention"]}),
        ],
    ),
    "Qwen2": (
        LLAMA | rope() | {"num_hidden_layers": 2},
        [
            ("follows", SLIDES | {"max_window_layers": 0, "layer_types": ABSENT}),
            ("follows", SLIDES | {"layer_types": ["sliding_attention"] * 2}),
            ("follows", {"head_dim": 6}),
            ("stays", SLIDES | {"max_window_layers": 2, "layer_types": ABSENT}),
            ("stays", SLIDES | {"use_sliding_window": False, "layer_types": ABSENT}),
            ("max_window_layers", SLIDES | {"max_window_layers": 1, "layer_types": ABSENT}),
            ("layer_types", SLIDES | {"layer_types": ["sliding_attention", "full_attention"]}),
            ("layer_types", {"layer_types": ["sliding_attention"] * 2}),
            ("layer_types", {"layer_types": ["full_attention"]}),
            ("stays", {"use_mrope": False}),
            ("use_mrope", {"use_mrope": True}),
        ],
    ),
    "Qwen3": (LLAMA | rope(), [("follows", {"attention_bias": True}), ("mlp_bias", {"mlp_bias": True})]),
    "Phi3": (
        PHI3 | rope() | {"original_max_position_embeddings": 8},
        [
            ("follows", {"sliding_window": 3}),
            ("follows", rope(partial_rotary_factor=0.4)),
            ("follows", ROPE_4 | {"partial_rotary_factor": 0.4}),
            ("follows", ROPE_4 | {"rope_scaling": {"type": "su", **LONG_4, "original_max_position_embeddings": 8}}),
            ("follows", ROPE_4 | {"rope_scaling": {"type": "longrope", **LONG_4, "attention_factor": 1.7}}),
            ("follows", rope("longrope", **LONG_4) | {"original_max_position_embeddings": 14}),
            ("stays", {"original_max_position_embeddings": 9, "resid_pdrop": 0.1, "attention_bias": False}),
            ("stays", {"full_attn_mod": 1, "interpolate_factor": 1, "mlp_bias": False, "lm_head_bias": False}),
            ("attention_bias", {"attention_bias": True}),
            ("full_attn_mod", {"full_attn_mod": 2}),
            ("head_dim", {"head_dim": 8}),
            ("rope_type", rope("linear", factor=3.0)),
            ("original_max_position_embeddings", rope("longrope", **LONG_4, original_max_position_embeddings=9)),
        ],
    ),
}  # fmt: skip


def changed(values: dict, changes: dict) -> dict:
    whole = {**values, **changes}
    return {
        name: changed(value, {}) if isinstance(value, dict) else value
        for name, value in whole.items()
        if value is not ABSENT
    }


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.filterwarnings("ignore:.*training drops")
def test_each_field_is_followed_or_refused_by_name(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    values, changes = FIELDS[kind]
    tokens = draw_text(1, 13)
    make(kind, {"num_hidden_layers": 1} | values | ({"n_layer": 1} if kind == "GPT2" else {})).save_pretrained(tmp_path)
    written = json.loads((tmp_path / CONFIG).read_text())
    usual = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    TOKENIZER.save(tmp_path)
    for outcome, change in changes:
        (tmp_path / CONFIG).write_text(json.dumps(changed(written, change)))
        if outcome not in ("follows", "stays"):
            with pytest.raises(ValueError, match=rf"{outcome}: found"):
                read_config(tmp_path)
            continue
        peer = fill(transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path)))
        save_file({name: x.detach().numpy() for name, x in tensors_of(peer)}, tmp_path / SINGLE, {"format": "pt"})
        model = read_model(tmp_path)
        found = np.asarray(gpt.apply(model.params, jnp.array(tokens), model.config))
        np.testing.assert_allclose(found, peer_logits(peer, tokens), atol=ATOL, err_msg=str(change))
        moved = np.abs(found - peer_logits(usual, tokens)).max()
        assert moved > 1e-2 if outcome == "follows" else moved < ATOL, change


def test_what_config_json_leaves_out_is_what_transformers_takes():
    transformers = pytest.importorskip("transformers")
    for kind in FIELDS:
        peer = getattr(transformers, f"{kind}Config")()
        family = families.find(peer.model_type)
        bare, whole = (family.read(Fields(values, kind), "lm") for values in ({}, peer.to_dict()))
        assert express(bare, peer.model_type)[1] == express(whole, peer.model_type)[1]
