"""A whole folder: what is written is read as the same model, and what is wrong with one is said by name."""

import json
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY, draw, draw_tokens

import jaxgpt
from jaxgpt import bert, gpt, seq2seq
from jaxgpt.config import ModelConfig
from jaxgpt.model import GenerationDefaults, Model, Settings, by_layer, declarations
from jaxgpt.pretrained.family import MODULES
from jaxgpt.pretrained.folder import express, read_params
from jaxgpt.sharding import MeshConfig, make_mesh
from jaxgpt.tokenizers import CharTokenizer

TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvw")
LLAMA = replace(TINY, norm="rms", position="rotary", activation="silu", gated=True, bias=False, tie_embeddings=False)
BERT = ModelConfig(
    architecture="encoder", vocab_size=23, context_length=19, d_model=14, n_heads=2, d_ff=17, n_layers=2, n_segments=2,
    norm_position="post", embedding_norm=True, activation="gelu", head="sequence", n_classes=3,
)  # fmt: skip
MARIAN = ModelConfig(
    architecture="encoder-decoder", vocab_size=23, context_length=19, d_model=14, n_heads=2, d_ff=17, n_layers=2,
    n_encoder_layers=3, norm_position="post", position="sinusoidal_split", embedding_scale=True, activation="relu",
    head_bias=True,
)  # fmt: skip
SETTINGS = {
    "llama": Settings("llama", GenerationDefaults(end_tokens=(1, 2), do_sample=True, temperature=0.7, top_k=5)),
    "bert": Settings("bert", labels=("bad", "good", "fair"), pooling="mean", normalize=True, max_tokens=11),
    "marian": Settings(
        "marian",
        GenerationDefaults(end_tokens=(0,), start_token=22, banned_tokens=(22,), beam=4, early_stopping=True),
        prefixes=(("summarization", "summarize: "),),
    ),
}
MODELS = {
    name: Model(cfg, by_layer(draw(declarations(cfg)), "float32"), TOKENIZER, SETTINGS[name])
    for name, cfg in (("llama", LLAMA), ("bert", BERT), ("marian", MARIAN))
}


def leaves(model):
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(model.params)}


def same(first, second):
    assert first.keys() == second.keys()
    for name, x in first.items():
        np.testing.assert_array_equal(x, second[name], err_msg=name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard_bytes", [10**9, 2000])
def test_what_is_saved_is_loaded_as_the_same_model(tmp_path, name, shard_bytes):
    model = MODELS[name]
    jaxgpt.save(model, tmp_path / "saved", max_shard_bytes=shard_bytes)
    assert (tmp_path / "saved" / "model.safetensors").exists() == (shard_bytes > 2000)
    found = jaxgpt.load(tmp_path / "saved")
    assert found.config == replace(model.config, head_dim=found.config.head_dim, rope_theta=found.config.rope_theta)
    assert (found.settings, found.tokenizer.ids) == (model.settings, model.tokenizer.ids)
    same(leaves(found), leaves(model))


def test_stacked_parameters_are_saved_as_those_of_one_tree_a_layer(tmp_path):
    stacked = Model(LLAMA, draw(gpt.declare(LLAMA)), TOKENIZER)
    jaxgpt.save(stacked, tmp_path)
    same(leaves(jaxgpt.load(tmp_path)), leaves(MODELS["llama"]))
    again = read_params(tmp_path, jax.eval_shape(lambda: stacked.params))
    jax.tree.map(np.testing.assert_array_equal, again, stacked.params)


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=2, tensor=2, data=2), MeshConfig(fsdp=7)])
def test_a_model_is_loaded_onto_a_mesh_and_computes_the_same(tmp_path, mesh):
    model = MODELS["llama"]
    jaxgpt.save(model, tmp_path)
    mesh = make_mesh(mesh, jax.devices()[: mesh.size])
    found = jaxgpt.load(tmp_path, mesh=mesh)
    same(leaves(found), leaves(model))
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(found.params))
    assert held < 0.75 * sum(x.nbytes for x in jax.tree.leaves(found.params))
    tokens = draw_tokens(LLAMA, 2, 5)
    with jax.set_mesh(mesh):
        ours = jax.jit(gpt.apply, static_argnums=2)(found.params, tokens, found.config)
    np.testing.assert_allclose(ours, gpt.apply(model.params, tokens, LLAMA), atol=2e-5)


def test_the_dtype_is_the_folders_or_the_one_asked_for(tmp_path):
    model = MODELS["llama"]
    half = Model(LLAMA, jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params), TOKENIZER)
    jaxgpt.save(half, tmp_path)
    for asked, wanted in ((None, "bfloat16"), ("float32", "float32"), ("float16", "float16")):
        found = jaxgpt.load(tmp_path, dtype=asked)
        assert found.config.dtype == wanted
        assert {x.dtype.name for x in jax.tree.leaves(found.params)} == {wanted}
    with pytest.raises(ValueError, match="dtype: found 'int8', expected float32, bfloat16 or float16"):
        jaxgpt.load(tmp_path, dtype="int8")


@pytest.mark.parametrize("family", sorted(MODULES))
def test_a_preferred_family_that_says_all_is_taken(family):
    cfg = {"gpt2": replace(TINY, n_kv_heads=None, head_dim=None, n_heads=7)}.get(family)
    if cfg is not None:
        assert express(cfg)[0].name == family


def test_what_no_family_says_is_named():
    with pytest.raises(ValueError, match=r"model.embedding_norm: found True, expected False, as"):
        express(replace(LLAMA, embedding_norm=True))
    with pytest.raises(ValueError, match=r"model.norm_position: found 'pre', expected 'post', as marian"):
        express(replace(MARIAN, norm_position="pre"))
    with pytest.raises(ValueError, match="no family of checkpoints has this model"):
        jaxgpt.save(Model(replace(LLAMA, embedding_norm=True), {}, TOKENIZER), "nowhere")


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop(folder, name):
    (folder / name).unlink()


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGE = [
    (lambda f: edit_config(f, model_type="mamba"), "model_type: found 'mamba', expected one of .*gpt2.*llama.*t5"),
    (lambda f: edit_config(f, architectures=["LlamaForX"]), "architectures: found 'LlamaForX', expected one of Llama"),
    (lambda f: edit_config(f, rope_flavour=3), "rope_flavour: found 3, expected no such field"),
    (lambda f: edit_config(f, num_hidden_layers=4), "missing tensors: found 9, expected none: model.layers.3"),
    (lambda f: edit_config(f, num_hidden_layers=2), r"unknown tensors: found 9, .*layers.2.*\(14,\)"),
    (lambda f: edit_config(f, intermediate_size=18), r"down_proj.weight: found \(14, 17\), expected \(14, 18\)"),
    (lambda f: edit_config(f, dtype="float8_e4m3fn"), "dtype: found 'float8_e4m3fn', expected one of float32"),
    (lambda f: (f / "config.json").write_text("{"), "config.json: found bad JSON"),
    (lambda f: drop(f, "config.json"), "found no config.json"),
    (lambda f: drop(f, "model.safetensors"), "found no weights, expected model.safetensors"),
    (lambda f: (drop(f, "jaxgpt_tokenizer.json"), drop(f, "tokenizer.json")), "found no tokenizer"),
    (truncate, "model.safetensors: found a damaged file"),
    (pickles, r"found only pickles \(pytorch_model.bin\), which may run any code"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_folder_is_refused_by_name(tmp_path, damage, message):
    jaxgpt.save(MODELS["llama"], tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        jaxgpt.load(tmp_path)
    assert str(tmp_path) in str(caught.value) or "config.json" in str(caught.value)


def test_a_save_over_another_model_leaves_that_one_alone(tmp_path):
    jaxgpt.save(MODELS["bert"], tmp_path, max_shard_bytes=2000)
    jaxgpt.save(MODELS["llama"], tmp_path)
    assert not list(tmp_path.glob("*.index.json"))
    same(leaves(jaxgpt.load(tmp_path)), leaves(MODELS["llama"]))


def test_loaded_models_compute_what_the_saved_ones_did(tmp_path):
    tokens = draw_tokens(BERT, 2, 7)
    jaxgpt.save(MODELS["bert"], tmp_path / "bert")
    found = jaxgpt.load(tmp_path / "bert")
    ours = bert.classify(found.params, tokens, found.config)
    np.testing.assert_array_equal(ours, bert.classify(MODELS["bert"].params, tokens, BERT))
    jaxgpt.save(MODELS["marian"], tmp_path / "marian")
    found = jaxgpt.load(tmp_path / "marian")
    ours = seq2seq.apply(found.params, tokens, tokens[:, :4], found.config)
    np.testing.assert_array_equal(ours, seq2seq.apply(MODELS["marian"].params, tokens, tokens[:, :4], MARIAN))


def test_a_name_that_is_neither_a_folder_nor_a_repository_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "nothing", str(tmp_path / "nothing"), "../nothing/here"):
        with pytest.raises(FileNotFoundError, match=re.escape(f"model: found no folder {name}")):
            jaxgpt.load(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder or a repository of the hub"):
        jaxgpt.load(tmp_path / "file")
