"""Parameters as they are computed with: one tree a layer, and on a CPU each kernel the other way round."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bert import CONFIGS
from tiny import SCHEMES, TINY, draw, draw_tokens

from jaxgpt import bert, gpt, seq2seq
from jaxgpt.model import Model, by_layer, declarations, prepare
from jaxgpt.tokenizers import CharTokenizer

TRANSLATOR = replace(TINY, architecture="encoder-decoder", n_layers=1, tie_embeddings=False, head_bias=True)
MODELS = {
    "tied": replace(TINY, n_layers=2),
    "untied, rotary, gated": replace(SCHEMES["rotary"], n_layers=2, tie_embeddings=False),
    "one query a key": replace(TINY, n_layers=1, n_kv_heads=6),
    "decoder that classifies": replace(TINY, n_layers=1, head="sequence", n_classes=5),
    "encoder": CONFIGS["untied"],
    "encoder that classifies": CONFIGS["sequence"],
    "encoder-decoder": TRANSLATOR,
}


def compute(params, cfg):
    if cfg.architecture == "encoder-decoder":
        return seq2seq.apply(params, draw_tokens(cfg, 2, 7), draw_tokens(cfg, 2, 5, seed=2), cfg)
    module = bert if cfg.architecture == "encoder" else gpt
    classifies = cfg.head == "sequence"
    return (module.classify if classifies else module.apply)(params, draw_tokens(cfg, 2, 7), cfg)


def kernels(params, name):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path[:-1]): x for path, x in leaves if path[-1].key == name}


@pytest.mark.parametrize("name", MODELS)
def test_prepared_parameters_compute_the_same(name):
    cfg = MODELS[name]
    params = draw(declarations(cfg))
    ready = prepare(params, "float32")
    run = jax.jit(compute, static_argnums=1)
    wanted = run(params, cfg)
    np.testing.assert_allclose(run(ready, cfg), wanted, atol=2e-6 * float(jnp.abs(wanted).max()))
    before, after = kernels(by_layer(params, "float32"), "kernel"), kernels(ready, "transposed")
    assert before.keys() == after.keys()
    assert not kernels(ready, "kernel")
    for path, x in before.items():
        inputs = x.ndim - 1 if "output" in path else 1
        np.testing.assert_array_equal(after[path], np.moveaxis(x, range(inputs), range(-inputs, 0)))
    assert prepare(ready, "float32") is ready


@pytest.mark.parametrize("name", ["tied", "encoder-decoder"])
def test_by_layer_there_is_one_tree_a_layer_of_the_dtype_and_nothing_else_changes(name):
    params = draw(declarations(MODELS[name]))
    found = by_layer(params, "bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(found)} == {"bfloat16"}
    again = by_layer(params, "float32")
    for side, theirs in [(again, params), *((again[x], params[x]) for x in ("encoder", "decoder") if x in params)]:
        if "layers" in theirs:
            assert isinstance(side["layers"], tuple)
            stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *side["layers"])
            jax.tree.map(np.testing.assert_array_equal, stacked, theirs["layers"])
    np.testing.assert_array_equal(again["embedding"]["token"], params["embedding"]["token"])
    assert by_layer(again, "float32") is again


def test_where_there_is_no_cpu_kernels_stay_as_they_are(monkeypatch):
    params = draw(declarations(MODELS["tied"]))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    ready = prepare(params, "bfloat16")
    assert not kernels(ready, "transposed")
    jax.tree.map(np.testing.assert_array_equal, ready, by_layer(params, "bfloat16"))


def test_a_model_prepares_its_parameters_once():
    params = draw(declarations(MODELS["tied"]))
    model = Model(replace(MODELS["tied"], dtype="bfloat16"), params, CharTokenizer("abc"))
    assert model.inference_config.dtype == "float32"
    assert model.inference_params is model.inference_params
    jax.tree.map(np.testing.assert_array_equal, model.inference_params, prepare(params, "float32"))
    assert Model(model.config, model.inference_params, model.tokenizer).inference_params is model.inference_params
