"""Marian and T5 against transformers' own, at awkward sizes and with drawn weights: logits, greedy targets, beams."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from peers import TRANSLATORS
from safetensors.numpy import load_file, save_file

from jaxgpt import seq2seq
from jaxgpt.pretrained.files import SINGLE
from jaxgpt.pretrained.folder import express, read_config, read_model, write_model
from jaxgpt.translation import translate_tokens

apply = jax.jit(seq2seq.apply, static_argnums=3)
SEARCHED = ("marian", "flan")


@pytest.mark.parametrize("name", ["marian", "t5", "flan"])
def test_logits_and_greedy_tokens_are_what_transformers_gave(name, tmp_path):
    """Golden files: no other library is needed."""
    kept, values = peers.unpack(name, tmp_path), TRANSLATORS[name][1]
    model, inputs, real = read_model(tmp_path), kept["inputs"], kept["inputs"]["target_mask"]
    np.testing.assert_allclose(logits(model, inputs)[real], kept["outputs"]["logits"][real], atol=3e-5)
    found = translate(model, values, inputs, beam=1, max_new_tokens=64)
    assert found == [row[row >= 0].tolist() for row in kept["outputs"]["greedy"]]


@pytest.fixture(scope="module", params=TRANSLATORS)
def case(request, tmp_path_factory):
    pytest.importorskip("transformers")
    name, values = TRANSLATORS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    peer = peers.make(name, values, folder)
    inputs = peers.translator_inputs(values)
    model = read_model(folder)
    return SimpleNamespace(
        name=request.param, kind=name, values=values, peer=peer, folder=folder, model=model, inputs=inputs
    )


def logits(model, inputs):
    source, mask, target, target_mask = (
        jnp.array(inputs[name]) for name in ("source", "source_mask", "target", "target_mask")
    )
    return np.asarray(apply(model.params, source, target, model.config, source_mask=mask, target_mask=target_mask))


def translate(model, values, inputs, **options):
    sources = [row[mask].tolist() for row, mask in zip(inputs["source"], inputs["source_mask"], strict=True)]
    return translate_tokens(
        model.params,
        sources,
        model.config,
        start=values["decoder_start_token_id"],
        end=values["eos_token_id"],
        ids=[token for token in range(values["vocab_size"]) if token != values["pad_token_id"]],
        **options,
    )


def test_logits_are_transformers_own(case):
    real = case.inputs["target_mask"]
    wanted = peers.translator_logits(case.peer, case.inputs)
    np.testing.assert_allclose(logits(case.model, case.inputs)[real], wanted[real], atol=3e-5)


def test_64_greedy_tokens_are_those_of_transformers(case):
    if case.name in ("marian-plain", "t5-unscaled"):
        pytest.skip("the logits say the same, and two programs fewer are compiled")
    found = translate(case.model, case.values, case.inputs, beam=1, max_new_tokens=64)
    wanted, margins = peers.generate(case.peer, case.inputs, case.values, max_new_tokens=64)
    assert margins.min() > 2e-4  # no tie, so that rounding decides nothing
    assert found == wanted


def test_saving_gives_back_the_files_tensors_and_a_config_that_transformers_reads(case, tmp_path):
    import transformers

    assert write_model(case.model, tmp_path).name == case.peer.config.model_type
    ours, theirs = load_file(tmp_path / SINGLE), load_file(case.folder / SINGLE)
    assert ours.keys() == theirs.keys()
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name])
    again = getattr(transformers, case.kind).from_pretrained(tmp_path).eval()
    np.testing.assert_array_equal(*(peers.translator_logits(peer, case.inputs) for peer in (again, case.peer)))
    told, kept = again.config.to_dict(), case.peer.config.to_dict()
    # Where the family does not say them they are the tokenizer's, which has none here.
    tokens = set() if case.name.startswith("marian") else {"pad_token_id", "bos_token_id"}
    free = tokens | {
        "dtype",
        "_name_or_path",
        "torch_dtype",
        "transformers_version",
        "forced_eos_token_id",
        "max_length",
    }
    assert {n: v for n, v in told.items() if n not in free} == {n: v for n, v in kept.items() if n not in free}
    assert read_config(tmp_path)[0] == replace(case.model.config, dtype="float32")
    assert express(case.model.config, case.peer.config.model_type)[0].name == case.peer.config.model_type


@pytest.fixture(scope="module", params=SEARCHED)
def searched(request, tmp_path_factory):
    """More sources, of which some targets end early."""
    pytest.importorskip("transformers")
    name, values = TRANSLATORS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    peer = peers.make(name, values, folder)
    source, mask = peers.draw_texts([5, 11, 8, 3, 9, 7, 2, 6], values, seed=5)
    return SimpleNamespace(
        peer=peer, values=values, model=read_model(folder), inputs={"source": source, "source_mask": mask}
    )


def scores(model, values, inputs, targets, alpha):
    """Each target's log-probability over its length to the power alpha."""
    width, start = max(map(len, targets)), values["decoder_start_token_id"]
    padded = np.array([[start, *target] + [0] * (width - len(target)) for target in targets])
    found = apply(
        model.params,
        jnp.array(inputs["source"]),
        jnp.array(padded[:, :-1]),
        model.config,
        source_mask=jnp.array(inputs["source_mask"]),
    )
    logs = np.asarray(jnp.take_along_axis(jax.nn.log_softmax(found), padded[:, 1:, None], 2))[..., 0]
    return np.array(
        [row[: len(target)].sum() / len(target) ** alpha for row, target in zip(logs, targets, strict=True)]
    )


@pytest.mark.parametrize("early_stopping", [False, True, pytest.param("never", marks=pytest.mark.thorough)])
def test_beams_are_those_of_transformers(searched, early_stopping):
    lengths = set()
    for alpha in (0.6, 1.0, 2.0):
        options = {"length_penalty": alpha, "early_stopping": early_stopping, "max_new_tokens": 24}
        found = translate(searched.model, searched.values, searched.inputs, beam=4, length_offset=0, **options)
        wanted, wanted_scores = peers.generate(searched.peer, searched.inputs, searched.values, num_beams=4, **options)
        assert found == wanted
        found_scores = scores(searched.model, searched.values, searched.inputs, found, alpha)
        np.testing.assert_allclose(found_scores, wanted_scores, atol=3e-5)
        lengths |= {len(target) for target in found}
    assert len(lengths) > 3  # not all at the limit


def rewritten(source, folder, change):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text((source / "config.json").read_text())
    save_file(change(load_file(source / SINGLE)), folder / SINGLE, {"format": "pt"})
    peers.TOKENIZER.save(folder)
    return folder


def test_old_files_hold_the_embedding_again_and_sines(case, tmp_path):
    shared = "model.shared.weight" if case.name.startswith("marian") else "shared.weight"
    body = shared.removesuffix("shared.weight")

    def old(tensors):
        copies = {f"{body}{side}.embed_tokens.weight": tensors[shared].copy() for side in ("encoder", "decoder")}
        copies |= {"lm_head.weight": tensors.get("lm_head.weight", tensors[shared]).copy()}
        if body:
            sines = np.zeros((80, 12), "float32")
            copies |= {f"{body}{side}.embed_positions.weight": sines for side in ("encoder", "decoder")}
        else:
            name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
            copies |= {name: np.ones((8, 4), "float32")}
        return tensors | copies

    found = read_model(rewritten(case.folder, tmp_path, old))
    assert found.config == case.model.config
    jax.tree.map(np.testing.assert_array_equal, found.params, case.model.params)

    def other(tensors):
        tensors = old(tensors)
        tensors[f"{body}encoder.embed_tokens.weight"][0, 0] += 1
        return tensors

    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight: found 'other numbers', expected those of"):
        read_model(rewritten(case.folder, tmp_path, other))
