"""GPT-2, Llama, Mistral, Qwen2, Qwen3 and Phi-3 against transformers' own, at awkward sizes and with drawn weights."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
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
    make,
    peer_logits,
    rope,
    save,
    tensors_of,
)
from safetensors.numpy import load_file, save_file
from tiny import apply

from jaxgpt import gpt
from jaxgpt.generation import generate_tokens
from jaxgpt.pretrained.fields import CONFIG
from jaxgpt.pretrained.files import SINGLE, open_folder
from jaxgpt.pretrained.folder import express, read_config, read_model, write_model

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NEW = 65  # the first, and 64 in two dispatches of one program
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied": ("GPT2", GPT2 | {"tie_word_embeddings": False, "n_inner": None, "activation_function": "relu"}),
    "llama": ("Llama", LLAMA | rope()),
    "llama-biased": (
        "Llama",
        LLAMA
        | rope("linear", factor=3.0)
        | {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 20, "head_dim": 6, "mlp_bias": True}
        | {"attention_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "llama3": ("Llama", LLAMA | rope("llama3", **LLAMA3)),
    "llama-longrope": (
        "Llama", LLAMA | rope("longrope", **LONG, original_max_position_embeddings=8, attention_factor=1.3),
    ),
    "mistral": ("Mistral", LLAMA | rope() | {"sliding_window": 5}),
    "mistral-full": (
        "Mistral", LLAMA | rope("yarn", **YARN) | {"sliding_window": None, "tie_word_embeddings": True},
    ),
    "qwen2": (
        "Qwen2", LLAMA | rope(theta=1e6) | {"num_attention_heads": 5, "num_key_value_heads": 5, "hidden_size": 20},
    ),
    "qwen2-window": (
        "Qwen2",
        LLAMA
        | rope("yarn", **YARN | {"beta_slow": 0.1, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False})
        | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0, "tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", LLAMA | rope() | {"head_dim": 8, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-window": (
        "Qwen3", LLAMA | rope() | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    ),
    "phi3": ("Phi3", PHI3 | rope(partial_rotary_factor=2 / 3) | {"sliding_window": 5, "tie_word_embeddings": True}),
    "phi3-long": (
        "Phi3",
        PHI3
        | rope("longrope", short_factor=[1.0, 1.5, 1.25], long_factor=[2.0, 7.0, 3.0])
        | {"original_max_position_embeddings": 8, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attention_dropout": 0.1},
    ),
}  # fmt: skip


# What costs seconds to compile is done for one of each kind.
ONE_EACH = ("gpt2", "llama", "mistral", "qwen2-window", "qwen3", "phi3")
GENERATED = (*ONE_EACH, "llama3", "llama-longrope", "phi3-long")


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    kind, values = CASES[request.param]
    peer, folder = make(kind, values), tmp_path_factory.mktemp("checkpoint")
    save(peer, folder)
    return SimpleNamespace(name=request.param, peer=peer, folder=folder, model=read_model(folder))


@pytest.mark.parametrize("case", ONE_EACH, indirect=True, scope="module")
def test_logits_are_those_of_transformers(case):
    tokens = draw_text(3, 13)
    found = apply(case.model.params, jnp.array(tokens), case.model.config)
    np.testing.assert_allclose(found, peer_logits(case.peer, tokens), atol=ATOL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(case, side):
    tokens, lengths = draw_text(3, 13, seed=1), np.array([[13], [9], [4 if side == "left" else 6]])
    slots = np.arange(13)
    mask = slots < lengths if side == "right" else slots >= 13 - lengths
    found = np.asarray(apply(case.model.params, jnp.array(tokens), case.model.config, mask=jnp.array(mask)))
    # transformers turns all rows of a batch by the longest one's length.
    by_row = [peer_logits(case.peer, tokens[[i]][:, mask[i]])[0] for i in range(3)]
    together = peer_logits(case.peer, tokens, mask)
    for i in range(3):
        np.testing.assert_allclose(found[i, mask[i]], by_row[i], atol=ATOL)
        if "long" not in case.name:
            np.testing.assert_allclose(found[i, mask[i]], together[i, mask[i]], atol=ATOL)


@pytest.mark.parametrize("case", GENERATED, indirect=True, scope="module")
def test_64_greedy_tokens_are_those_of_transformers(case):
    import torch

    texts = [draw_text(n, seed=n).tolist() for n in (12, 5)]
    found = generate_tokens(case.model.params, texts, case.model.config, max_new_tokens=NEW)
    # longrope: transformers turns all rows by the longest one's length; and a Llama's cache it keeps past the switch,
    # turned by the factors before it, where ours and Phi-3's begin anew.
    batches = [[text] for text in texts] if "long" in case.name else [texts]
    wanted = []
    for batch in batches:
        width = max(map(len, batch))
        padded = torch.tensor([[0] * (width - len(text)) + text for text in batch])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in batch])
        out = case.peer.generate(
            padded, attention_mask=mask, do_sample=False, max_new_tokens=NEW, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True, use_cache=case.name != "llama-longrope",
        )  # fmt: skip
        wanted += out.sequences[:, width:].tolist()
        best = torch.stack(out.logits).topk(2).values
        assert (best[..., 0] - best[..., 1]).min() > 2e-4  # no tie, so that rounding decides nothing
    assert len({token for text in wanted for token in text}) > 5
    assert found == wanted


def test_saving_gives_back_the_files_tensors_and_a_config_that_transformers_reads(case, tmp_path):
    import transformers

    write_model(case.model, tmp_path)
    ours, theirs = open_folder(tmp_path), open_folder(case.folder)
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, (_, shape, dtype) in theirs.tensors.items():
        assert ours.tensors[name][1:] == (shape, dtype)
        whole = tuple(slice(0, n) for n in shape)
        np.testing.assert_array_equal(ours.read(name, whole), theirs.read(name, whole))
    tokens = draw_text(2, 13, seed=2)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(case.peer)
    np.testing.assert_allclose(peer_logits(again, tokens), peer_logits(case.peer, tokens), atol=1e-5)
    told, kept = again.config.to_dict(), case.peer.config.to_dict()
    for name in ("max_position_embeddings", "n_positions", "initializer_range", "attention_dropout", "resid_pdrop"):
        assert told.get(name) == kept.get(name)
    assert read_config(tmp_path)[0] == replace(case.model.config, dtype="float32")


@pytest.mark.parametrize("case", ONE_EACH, indirect=True, scope="module")
def test_bfloat16_is_close_to_that_of_transformers(case):
    import torch

    model = read_model(case.folder, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(model.params)} == {jnp.dtype("bfloat16")}
    tokens = draw_text(3, 13)
    exact = peer_logits(case.peer, tokens)
    half = type(case.peer).from_pretrained(case.folder, dtype=torch.bfloat16).eval()
    theirs = np.abs(peer_logits(half, tokens) - exact)
    ours = np.abs(np.asarray(apply(model.params, jnp.array(tokens), model.config)) - exact)
    assert ours.mean() < 1.3 * theirs.mean()
    assert ours.mean() > 0


def test_the_family_that_it_came_from_expresses_it(case):
    family, _ = express(case.model.config, case.model.settings.family)
    assert family.name == case.peer.config.model_type


LABELS = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
PAD = 7  # by which alone, not by the mask, transformers finds a text's last token


@pytest.fixture(scope="module", params=ONE_EACH)
def classifier(request, tmp_path_factory):
    kind, values = CASES[request.param]
    peer = make(kind, values | LABELS | {"pad_token_id": PAD}, "SequenceClassification")
    folder = tmp_path_factory.mktemp("classifier")
    save(peer, folder)
    tokens, lengths = draw_text(4, 13, seed=3), np.array([[13], [1], [9], [6]])
    tokens[tokens == PAD] = 0
    return SimpleNamespace(peer=peer, folder=folder, model=read_model(folder), tokens=tokens, lengths=lengths)


@pytest.mark.parametrize("side", ["left", "right"])
def test_classes_are_those_of_transformers(classifier, side):
    slots, lengths = np.arange(13), classifier.lengths
    mask = slots < lengths if side == "right" else slots >= 13 - lengths
    tokens, model = np.where(mask, classifier.tokens, PAD), classifier.model
    found = jax.jit(gpt.classify, static_argnums=2)(model.params, jnp.array(tokens), model.config, mask=jnp.array(mask))
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found, peer_logits(classifier.peer, tokens, mask), atol=ATOL)
    assert model.settings.labels == ("bad", "so so", "good")


def test_saving_a_classifier_gives_back_its_tensors_and_its_classes(classifier, tmp_path):
    import transformers

    family = write_model(classifier.model, tmp_path)
    assert family.name == classifier.peer.config.model_type
    ours, theirs = load_file(tmp_path / SINGLE), load_file(classifier.folder / SINGLE)
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        np.testing.assert_array_equal(ours[name], x)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, pad_token_id=PAD).eval()
    assert type(again) is type(classifier.peer)
    assert (again.config.id2label, again.config.label2id) == (LABELS["id2label"], LABELS["label2id"])
    mask = np.arange(13) < classifier.lengths
    tokens = np.where(mask, classifier.tokens, PAD)
    np.testing.assert_array_equal(peer_logits(again, tokens, mask), peer_logits(classifier.peer, tokens, mask))
    assert read_config(tmp_path)[0] == replace(classifier.model.config, dtype="float32")


def test_gpt2_files_of_a_bare_model_with_masks_and_a_copy_of_the_head(tmp_path):
    peer = make(*CASES["gpt2"])
    save(peer, tmp_path)
    wanted = read_model(tmp_path).params
    bare = {name.removeprefix("transformer."): x.detach().numpy() for name, x in tensors_of(peer)}
    masks = {
        "h.0.attn.bias": np.tri(96, dtype=np.float32)[None, None],
        "h.1.attn.masked_bias": np.array(-1e4, np.float32),
    }
    save_file(bare | masks, tmp_path / SINGLE)
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path).params, wanted)
    whole = {name: x.detach().numpy() for name, x in tensors_of(peer)}
    head = whole["transformer.wte.weight"].copy()
    save_file(whole | {"lm_head.weight": head}, tmp_path / SINGLE)
    jax.tree.map(np.testing.assert_array_equal, read_model(tmp_path).params, wanted)
    head[3, 3] += 1
    save_file(whole | {"lm_head.weight": head}, tmp_path / SINGLE)
    with pytest.raises(ValueError, match=r"lm_head\.weight: found 'other numbers', expected those of transformer\.wte"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_golden_checkpoint(name, tmp_path):
    golden = np.load(GOLDEN / "decoder_families.npz")
    golden = {path.removeprefix(f"{name}/"): golden[path] for path in golden.files if path.startswith(f"{name}/")}
    (tmp_path / CONFIG).write_text(str(golden["config"]))
    tensors = {path.removeprefix("tensor/"): x for path, x in golden.items() if path.startswith("tensor/")}
    save_file({path: x.astype(np.float32) for path, x in tensors.items()}, tmp_path / SINGLE)
    TOKENIZER.save(tmp_path)
    model = read_model(tmp_path, dtype="float32")
    text = np.concatenate([golden["tokens"], golden["greedy"]]).astype(int)
    lengths = np.array([[16], [len(text)]])  # as far as Phi-3 takes its short factors, and all
    found = apply(model.params, jnp.array([text] * 2), model.config, mask=jnp.arange(len(text)) < lengths)
    given = len(golden["tokens"])
    np.testing.assert_allclose(found[0, :given], golden["logits"], atol=ATOL)
    best = np.asarray(found).argmax(-1)
    chosen = np.concatenate([best[0, given - 1 : 16], best[1, 16:-1]])
    np.testing.assert_array_equal(chosen, golden["greedy"])
