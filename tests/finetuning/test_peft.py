"""Adapters in PEFT's layout: written here and applied by peft, trained by peft and read here, and what is refused."""

import copy
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
from decoder_peers import GPT2, LLAMA, PHI3, draw_text, peer_logits, rope
from numpy.testing import assert_allclose, assert_array_equal
from peers import BERT, DISTIL, MARIAN, ROBERTA, T5
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import draw

import jaxgpt
from jaxgpt import bert, gpt, seq2seq
from jaxgpt.finetuning import lora
from jaxgpt.finetuning.lora import LoRAConfig
from jaxgpt.finetuning.peft import CONFIG, WEIGHTS, Adapter, load_adapter, save_adapter
from jaxgpt.model import by_layer, declarations
from jaxgpt.pretrained.family import find
from jaxgpt.pretrained.folder import read_model
from jaxgpt.pretrained.mapping import file_tensors

CASES = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-sequence": ("GPT2ForSequenceClassification", GPT2 | {"num_labels": 3, "pad_token_id": 0}),
    "llama": ("LlamaForCausalLM", LLAMA | rope()),
    "phi3": ("Phi3ForCausalLM", PHI3 | rope()),
    "bert-sequence": ("BertForSequenceClassification", BERT | {"num_labels": 3}),
    "bert-token": ("BertForTokenClassification", BERT | {"num_labels": 4}),
    "bert-bare": ("BertModel", BERT),
    "bert-lm": ("BertForMaskedLM", BERT),
    "roberta-sequence": ("RobertaForSequenceClassification", ROBERTA | {"num_labels": 2}),
    "distilbert-sequence": ("DistilBertForSequenceClassification", DISTIL | {"num_labels": 3}),
    "marian": ("MarianMTModel", MARIAN),
    "t5": ("T5ForConditionalGeneration", T5),
}
TASKS = {
    "gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "phi3": "CAUSAL_LM", "bert-token": "TOKEN_CLS",
    "bert-bare": "FEATURE_EXTRACTION", "bert-lm": None, "marian": "SEQ_2_SEQ_LM", "t5": "SEQ_2_SEQ_LM",
}  # fmt: skip
# What of it is trained whole, with the classifier.
WHOLE = {
    "gpt2-sequence": ["score"], "bert-sequence": ["classifier", "pooler"], "bert-token": ["classifier"],
    "bert-bare": ["pooler"], "roberta-sequence": ["classifier"],
    "distilbert-sequence": ["classifier", "pre_classifier"],
}  # fmt: skip
# Of each: our targets, and what adapter_config.json calls their modules.
TARGETS = {
    "gpt2": (("query", "value", "attention/output", "mlp/up"), ["attn.c_proj", "c_attn", "c_fc"]),
    "gpt2-sequence": (("key",), ["c_attn"]),
    "llama": (("query", "value", "mlp/down"), ["down_proj", "q_proj", "v_proj"]),
    "phi3": (("query", "key", "mlp/up", "mlp/gate", "attention/output"), ["gate_up_proj", "o_proj", "qkv_proj"]),
    "bert-sequence": (("query", "value", "attention/output"), ["attention.output.dense", "query", "value"]),
    "bert-token": (("mlp",), ["0.output.dense", "1.output.dense", "intermediate.dense"]),
    "bert-bare": (("key",), ["key"]),
    "bert-lm": (("query",), ["query"]),
    "roberta-sequence": (("query",), ["query"]),
    "distilbert-sequence": (("query", "mlp"), ["lin1", "lin2", "q_lin"]),
    "marian": (("query", "cross/value", "mlp/up"), ["encoder_attn.v_proj", "fc1", "q_proj"]),
    "t5": (("query", "decoder/layers/attention/key"), ["decoder.block.0.layer.0.SelfAttention.k", "q"]),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """checkpoint(case) -> transformers' model, and the same as jaxgpt reads it."""
    pytest.importorskip("torch")
    made = {}

    def make(case):
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            made[case] = peers.make(*CASES[case], folder), read_model(folder)
        return made[case]

    return make


adapt = jax.jit(lora.adapt, static_argnums=2)  # its parts, each run by itself, take longer to compile


@partial(jax.jit, static_argnames="cfg")
def outputs(params, inputs, cfg):
    if cfg.architecture == "encoder-decoder":
        return seq2seq.apply(params, inputs["source"], inputs["target"], cfg, source_mask=inputs["source_mask"])
    if cfg.architecture == "decoder":
        return gpt.apply(params, inputs["inputs"], cfg)
    return bert.classify(params, inputs["inputs"], cfg, mask=inputs["mask"], segments=inputs["segments"])


def peer_outputs(peer, inputs):
    if "source" in inputs:
        return peers.translator_logits(peer, inputs)
    return peers.encoder_outputs(peer, inputs)["logits"] if "mask" in inputs else peer_logits(peer, inputs["inputs"])


INPUTS = {
    **{case: {"inputs": draw_text(3, 9)} for case in ("gpt2", "llama", "phi3")},
    "bert-sequence": peers.encoder_inputs(BERT),
    "t5": peers.translator_inputs(T5),
}


def assert_same_model(case, model, adapter, theirs):
    """What PEFT computes, to 1e-5, and what it merges, to 1e-6."""
    params = adapt(model.params, adapter.params, adapter.config) | adapter.head
    if case in INPUTS:
        inputs = INPUTS[case]
        mask = inputs["target_mask"] if "source" in inputs else ...  # no two agree on what padding gives
        expected = peer_outputs(theirs, inputs)[mask]
        found, base = (np.asarray(outputs(tree, inputs, model.config))[mask] for tree in (params, model.params))
        assert abs(base - expected).max() > 0.1 * abs(expected).max()
        assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())

    mapping = find(model.settings.family).tensors(model.config)
    ours, base = (dict(file_tensors(mapping, tree)) for tree in (params, model.params))
    merged = theirs.merge_and_unload().state_dict()
    assert any(abs(ours[name] - base[name]).max() > 0.1 for name in ours)
    for name in ours:
        assert_allclose(ours[name], merged[name].numpy(), rtol=1e-6, atol=1e-6, err_msg=name)


def drawn(case, model, **changes):
    """An adapter without zeros, and a head where there is one to train."""
    config = LoRAConfig(**{"rank": 3, "alpha": 4.0, "dropout": 0.1, "targets": TARGETS[case][0]} | changes)
    declared = declarations(model.config)
    head = draw({name: declared[name] for name in ("pooler", "classifier") if name in declared}, seed=5)
    return Adapter(config, draw(lora.declare(declared, config), seed=4), head, f"some/{case}")


@pytest.mark.parametrize("case", CASES)
def test_peft_applies_what_is_written_here(case, checkpoint, tmp_path):
    peft = pytest.importorskip("peft")
    peer, model = checkpoint(case)
    adapter = drawn(case, model)
    save_adapter(adapter, tmp_path, model.config, model.settings.family)
    options = json.loads((tmp_path / CONFIG).read_text())
    assert options["target_modules"] == TARGETS[case][1]
    assert options["task_type"] == TASKS.get(case, "SEQ_CLS")
    assert options["base_model_name_or_path"] == f"some/{case}"
    assert options["lora_dropout"] == 0.1
    assert options["modules_to_save"] == WHOLE.get(case)
    with safe_open(tmp_path / WEIGHTS, "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}  # as PEFT's own

    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(peer), tmp_path)
    named = {name.replace(".default", "") for name, _ in theirs.named_parameters() if "lora_" in name}
    assert named == {name for name in load_file(tmp_path / WEIGHTS) if "lora_" in name}
    assert_same_model(case, model, adapter, theirs)


# Of each: what LoraConfig is given.
TRAINED = {
    "gpt2": {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "rank_pattern": {"c_fc": 2}},
    "gpt2-sequence": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "task_type": "SEQ_CLS"},
    "llama": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 4, "^model.layers.1.mlp.up_proj": 1},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 9, "o_proj|down_proj": 0.5},
    },
    "phi3": {
        "target_modules": ["qkv_proj", "gate_up_proj"], "use_rslora": True, "rank_pattern": {"qkv_proj": 5},
        "init_lora_weights": "gaussian",
    },
    "bert-sequence": {"target_modules": ["query"], "task_type": "SEQ_CLS", "modules_to_save": ["pooler"]},
    "bert-token": {"target_modules": r".*\.1\.attention\.self\.(query|value)", "task_type": "TOKEN_CLS"},
    "bert-bare": {"target_modules": ["query"], "layers_to_transform": [1], "task_type": "FEATURE_EXTRACTION"},
    "roberta-sequence": {"target_modules": "all-linear", "task_type": "SEQ_CLS"},
    "distilbert-sequence": {"target_modules": ["q_lin", "out_lin"], "task_type": "SEQ_CLS", "bias": "none"},
    "marian": {"target_modules": ["q_proj", "fc2"], "exclude_modules": ["encoder_attn.q_proj"]},
    "t5": {"target_modules": ["q", "v", "wo"], "task_type": "SEQ_2_SEQ_LM"},
}  # fmt: skip


def trained_by_peft(peer, folder, values):
    """PEFT's model of the peer, every number that it trains drawn, after it is saved."""
    import torch

    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(copy.deepcopy(peer), peft.LoraConfig(**{"r": 3, "lora_alpha": 4} | values)).eval()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parametrize("case", TRAINED)
def test_what_peft_trained_is_read_here(case, checkpoint, tmp_path):
    peer, model = checkpoint(case)
    theirs = trained_by_peft(peer, tmp_path, TRAINED[case])
    adapter = load_adapter(tmp_path, model.config, model.settings.family)
    assert_same_model(case, model, adapter, theirs)
    declared = lora.declare(declarations(model.config), adapter.config)
    assert jax.tree.map(lambda p: p.shape, declared) == jax.tree.map(lambda x: x.shape, adapter.params)


@pytest.mark.parametrize("case", ["gpt2", "phi3", "bert-sequence", "t5"])
def test_what_is_written_here_is_read_here(case, checkpoint, tmp_path):
    _, model = checkpoint(case)
    adapter = drawn(case, model)
    save_adapter(adapter, tmp_path, model.config, model.settings.family)
    back = load_adapter(tmp_path, model.config, model.settings.family)
    assert (back.config.scale, back.config.dropout, back.base) == (adapter.config.scale, 0.1, f"some/{case}")
    jax.tree.map(assert_array_equal, back.head, adapter.head)
    found, expected = (adapt(model.params, one.params, one.config) for one in (back, adapter))
    jax.tree.map(partial(assert_allclose, rtol=0, atol=1e-6), found, expected)
    if case in ("bert-sequence", "t5"):  # no fused modules
        jax.tree.map(assert_array_equal, back.params, adapter.params)


@pytest.mark.parametrize("case", ["gpt2", "phi3"])
def test_a_fused_adapter_that_was_read_is_written_as_it_was(case, checkpoint, tmp_path):
    peer, model = checkpoint(case)
    trained_by_peft(peer, tmp_path / "theirs", TRAINED[case] | {"rank_pattern": {}, "use_rslora": False})
    adapter = load_adapter(tmp_path / "theirs", model.config, model.settings.family)
    save_adapter(adapter, tmp_path / "ours", model.config, model.settings.family)
    theirs, ours = (load_file(tmp_path / name / WEIGHTS) for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    for name in theirs:
        assert_array_equal(ours[name], theirs[name])
    theirs, ours = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("theirs", "ours"))
    for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias", "peft_type"):
        assert ours[name] == theirs[name], name
    assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])


def test_what_is_filled_up_with_zeros_stays_so_in_training(checkpoint, tmp_path):
    """PEFT trains no layer but the second, nor a rank that a module has not."""
    peer, model = checkpoint("bert-bare")
    values = {"target_modules": ["query", "key"], "layers_to_transform": [1], "rank_pattern": {"key": 1}}
    trained_by_peft(peer, tmp_path, values)
    adapter = load_adapter(tmp_path, model.config)

    tokens = jnp.asarray(peers.encoder_inputs(BERT)["inputs"])

    @jax.jit
    @jax.grad
    def gradient(params):
        adapted = lora.adapt(model.params, params, adapter.config)
        return jnp.square(bert.encode(adapted, tokens, model.config)).sum()

    gradient = gradient(adapter.params)["layers"]["attention"]
    for name, rank in (("query", 3), ("key", 1)):
        a, b = gradient[name]["a"], gradient[name]["b"]
        assert not any(x.any() for x in (a[0], b[0], a[1, :, rank:], b[1, rank:]))
        assert all(x.any() for x in (a[1, :, :rank], b[1, :rank]))


def test_an_adapter_of_a_bare_model_is_one_of_its_body(checkpoint, tmp_path):
    peer, model = checkpoint("bert-sequence")
    trained_by_peft(peer.bert, tmp_path, {"target_modules": ["query"]})
    found = load_adapter(tmp_path, model.config)
    tensors = load_file(tmp_path / WEIGHTS)
    a = tensors["base_model.model.encoder.layer.1.attention.self.query.lora_A.weight"]
    assert_array_equal(found.params["layers"]["attention"]["query"]["a"][1], a.T)


@pytest.fixture
def written(checkpoint, tmp_path):
    """An adapter of BERT's in tmp_path, and `change`, which writes its config or its tensors anew."""
    _, model = checkpoint("bert-sequence")
    save_adapter(drawn("bert-sequence", model), tmp_path, model.config)

    def change(options=None, tensors=None):
        if options is not None:
            (tmp_path / CONFIG).write_text(json.dumps(json.loads((tmp_path / CONFIG).read_text()) | options))
        if tensors is not None:
            held = load_file(tmp_path / WEIGHTS)
            save_file(tensors(held), tmp_path / WEIGHTS)
        return lambda cfg=model.config: load_adapter(tmp_path, cfg)

    return change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type: found 'IA3', expected LORA"),
        ({"peft_type": None}, "peft_type: found None, expected LORA"),
        ({"use_dora": True}, "use_dora: found True, expected one of"),
        ({"bias": "all"}, "bias: found 'all', expected 'none'"),
        ({"lora_bias": True}, "lora_bias: found True, expected one of"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: found 'pissa', expected True or False or"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices: found \[3\], expected one of"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication: found \[\[0, 2\]\], expected one of"),
        ({"of_next_year": "some"}, "of_next_year: found 'some', expected one of"),
        ({"r": 0}, "r: found 0, expected an integer above 0"),
        ({"r": "8"}, "r: found '8', expected an integer"),
        ({"lora_alpha": -1}, "lora_alpha: found -1, expected a number above 0"),
        ({"rank_pattern": {"query": 2.5}}, "rank_pattern: found {'query': 2.5}, expected an integer above 0"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern: found '\('"),
        ({"alpha_pattern": {"query": "a"}}, "alpha_pattern: found {'query': 'a'}, expected a number above 0"),
        ({"lora_dropout": 1.5}, "lora.dropout: found 1.5"),
        ({"r": 4}, r"shape of \S+\.0\.attention.output.dense.lora_A.weight: found \(3, 12\), expected \(4, 12\)"),
        ({"rank_pattern": {"value": 7}}, r"shape of \S+\.value.lora_A.weight: found \(3, 12\), expected \(7, 12\)"),
    ],
)
def test_an_option_that_is_not_computed_is_refused(options, message, written):
    with pytest.raises(ValueError, match=message):
        written(options)()


def test_an_option_that_is_off_is_none(written):
    written({"use_dora": False, "of_next_year": None, "loftq_config": {}, "layer_replication": []})()


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({QUERY + "A.weight": None}, r"tensors: found 'one of a pair', expected \S+query.lora_A.weight too"),
        ({QUERY + "B.weight": None}, r"tensors: found 'one of a pair', expected \S+query.lora_B.weight too"),
        ({QUERY + "B.weight": (13, 3)}, r"shape of \S+query.lora_B.weight: found \(13, 3\), expected \(12, 3\)"),
        ({QUERY + "magnitude_vector": (12,)}, r"found the tensor \S+query.lora_magnitude_vector', expected none that"),
        ({QUERY.replace(".0.", ".2.") + "A.weight": (3, 12)}, r"found the tensor \S+layer.2\S+, expected none that"),
        (
            {QUERY.replace("query", "c_attn") + "A.weight": (3, 12)},
            r"found the tensor \S+c_attn\S+, expected none that",
        ),
        ({"base_model.model.bert.embeddings.word_embeddings.weight": (37, 12)}, r"found the tensor \S+word_embeddings"),
        (
            {"base_model.model.classifier.bias": None},
            r"missing tensors: found 1, expected none: \S+classifier.bias \(3,\)",
        ),
        ({"base_model.model.classifier.weight": (2, 12)}, r"shape of \S+: found \(2, 12\), expected \(3, 12\)"),
    ],
)
def test_tensors_of_another_model_are_refused(tensors, message, written):
    def changed(held):
        for name, shape in tensors.items():
            held.pop(name, None)
            if shape is not None:
                held[name] = np.ones(shape, np.float32)
        return held

    with pytest.raises(ValueError, match=message):
        written(tensors=changed)()


def test_integers_are_refused(written):
    with pytest.raises(ValueError, match=r"dtype of \S+: found 'I32', expected one of F64"):
        written(tensors=lambda held: {name: x.astype("i4" if "lora" in name else "f4") for name, x in held.items()})()


def test_a_head_alone_is_no_adapter(written):
    with pytest.raises(
        ValueError, match=r"tensors: found \['base_model.model.bert.pooler.dense.bias', .*, expected an"
    ):
        written(tensors=lambda held: {name: x for name, x in held.items() if "lora" not in name})()


def test_a_classifiers_adapter_is_none_of_another_heads(written, checkpoint):
    load = written()
    with pytest.raises(
        ValueError, match=r"found the tensor 'base_model.model.bert.pooler\S+, expected none .*head='lm'"
    ):
        load(checkpoint("bert-lm")[1].config)
    with pytest.raises(ValueError, match=r"found the tensor \S+, expected none that this model \(gpt2"):
        load(checkpoint("gpt2")[1].config)


def test_damaged_missing_and_pickled_files_are_refused(written, checkpoint, tmp_path):
    load = written()
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:-5])
    with pytest.raises(ValueError, match=f"{WEIGHTS}: found a damaged file"):
        load()
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"found no {WEIGHTS}"):
        load()
    (tmp_path / "adapter_model.bin").write_bytes(b"any")
    with pytest.raises(ValueError, match=f"adapter_model.bin: found a pickle, .*, expected {WEIGHTS}"):
        load()
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=f"{CONFIG}: found bad JSON"):
        load()
    (tmp_path / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=f"found no {CONFIG}"):
        load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one._replace(head={"mlm": {}}), "adapter.head: found 'mlm', expected one of pooler, classifier"),
        (
            lambda one: one._replace(head={"classifier": {}}),
            r"adapter.head/classifier/bias: found None, expected \(3,\)",
        ),
        (lambda one: one._replace(params={}), r"adapter.params/layers/\S+: found None, expected \(2, "),
        (
            lambda one: one._replace(config=LoRAConfig(rank=4, targets=one.config.targets)),
            r"adapter.params/layers/attention/output/a: found \(2, 3, 4, 3\), expected \(2, 3, 4, 4\)",
        ),
        (
            lambda one: one._replace(params=one.params | {"classifier": {}}),
            "lora.targets: found 'classifier', expected no part of what is trained whole",
        ),
    ],
)
def test_nothing_is_written_of_an_adapter_of_another_model(change, message, checkpoint, tmp_path):
    _, model = checkpoint("bert-sequence")
    with pytest.raises(ValueError, match=message):
        save_adapter(change(drawn("bert-sequence", model)), tmp_path / "new", model.config)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("case", ["gpt2", "bert-bare", "bert-lm"])
def test_an_adapter_brings_the_head_that_its_base_lacks(case, checkpoint, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    peer, _ = checkpoint(case)
    peer.save_pretrained(tmp_path / "base")
    peers.TOKENIZER.save(tmp_path / "base")
    found = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=5, pad_token_id=0
    )
    found.save_pretrained(tmp_path / "whole")
    peers.TOKENIZER.save(tmp_path / "whole")
    model = read_model(tmp_path / "whole")
    adapter = drawn(f"{model.settings.family}-sequence", model)._replace(base=str(tmp_path / "base"))
    save_adapter(adapter, tmp_path / "adapter", model.config, model.settings.family)

    loaded = jaxgpt.load(tmp_path / "adapter")
    assert loaded.config == model.config
    assert loaded.settings.labels == tuple(f"LABEL_{i}" for i in range(5))
    named = adapter._replace(labels=tuple("abcde"))
    save_adapter(named, tmp_path / "adapter", model.config, model.settings.family)
    assert jaxgpt.load(tmp_path / "adapter").settings.labels == named.labels
    assert peft.PeftModel.from_pretrained(found, tmp_path / "adapter").peft_config["default"].task_type == "SEQ_CLS"
    expected = by_layer(adapt(model.params, adapter.params, adapter.config) | adapter.head, "float32")
    jax.tree.map(partial(assert_allclose, atol=1e-6), loaded.params, expected)


@pytest.mark.parametrize("told", ['["a", "b"]', '["a", "b", 3]', "a b c", '"abc"'])
def test_names_that_are_not_the_classes_are_refused(checkpoint, tmp_path, told):
    _, model = checkpoint("bert-sequence")
    adapter = drawn("bert-sequence", model)._replace(labels=tuple("abc"))
    save_adapter(adapter, tmp_path, model.config)
    assert load_adapter(tmp_path, model.config).labels == adapter.labels
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors, tmp_path / WEIGHTS, {"labels": told})
    message = f"{tmp_path / WEIGHTS}: labels: found {told!r}, expected a JSON list of the names of n_classes=3"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_adapter(tmp_path, model.config)


def test_an_adapter_without_a_head_leaves_its_base_as_it_is(checkpoint, tmp_path):
    peer, model = checkpoint("bert-lm")
    peer.save_pretrained(tmp_path / "base")
    peers.TOKENIZER.save(tmp_path / "base")
    save_adapter(drawn("bert-lm", model)._replace(base=str(tmp_path / "base")), tmp_path, model.config, "bert")
    assert jaxgpt.load(tmp_path).config == model.config
