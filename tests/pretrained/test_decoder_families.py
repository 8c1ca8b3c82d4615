"""GPT-2, Llama, Mistral, Qwen2, Qwen3 and Phi-3 against transformers' own, at awkward sizes and with drawn weights."""

import zlib
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import apply

from jaxgpt.generation import generate_tokens
from jaxgpt.pretrained.files import open_folder
from jaxgpt.pretrained.folder import express, read_config, read_model, write_model
from jaxgpt.tokenizers.char import CharTokenizer

VOCAB = 61
TOKENIZER = CharTokenizer(chr(ord("A") + i) for i in range(VOCAB))
IDS = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}  # outside the vocabulary by default
GPT2 = {
    "vocab_size": VOCAB, "n_positions": 96, "n_embd": 20, "n_layer": 2, "n_head": 5, "n_inner": 33,
    "layer_norm_epsilon": 1e-4, "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2, **IDS,
}  # fmt: skip
LLAMA = {
    "vocab_size": VOCAB, "max_position_embeddings": 96, "hidden_size": 18, "intermediate_size": 23,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "rms_norm_eps": 1e-4, **IDS,
}  # fmt: skip
PHI3 = {name: value for name, value in LLAMA.items() if name != "head_dim"} | {"hidden_size": 36}


def rope(kind="default", theta=500.0, **values):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
YARN = {"factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 4.0}
LONG = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 7.0]}
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
    "llama-longrope": ("Llama", LLAMA | rope("longrope", **LONG, original_max_position_embeddings=8)),
    "mistral": ("Mistral", LLAMA | rope() | {"sliding_window": 5}),
    "mistral-full": (
        "Mistral", LLAMA | rope("yarn", **YARN) | {"sliding_window": None, "tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2", LLAMA | rope(theta=1e6) | {"num_attention_heads": 5, "num_key_value_heads": 5, "hidden_size": 20}),
    "qwen2-window": (
        "Qwen2",
        LLAMA
        | rope("yarn", **YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False})
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


def make(kind: str, values: dict):
    """transformers' model of these fields, every parameter drawn: zero biases and unit gains hide mistakes."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    architecture = "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, architecture)(getattr(transformers, f"{kind}Config")(**values)).eval()
    for path, parameter in model.named_parameters():
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        gain = parameter.ndim == 1 and path.endswith("weight")
        parameter.data = torch.tensor(rng.normal(1.0 if gain else 0.0, 0.3, parameter.shape), dtype=torch.float32)
    return model


def save(model, folder):
    model.save_pretrained(folder)
    TOKENIZER.save(folder)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    kind, values = CASES[request.param]
    peer, folder = make(kind, values), tmp_path_factory.mktemp("checkpoint")
    save(peer, folder)
    return SimpleNamespace(name=request.param, peer=peer, folder=folder, model=read_model(folder))


def draw_text(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def peer_logits(peer, tokens, mask=None):
    """Positions are given, as `generate` does: without them padding on the left takes places."""
    import torch

    mask = np.ones(tokens.shape, int) if mask is None else mask.astype(int)
    places = np.maximum(mask.cumsum(1) - 1, 0)
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
    with torch.no_grad():
        logits = peer(**{name: torch.tensor(np.asarray(x)) for name, x in inputs.items()}).logits
    return logits.float().numpy()


def test_logits_are_those_of_transformers(case):
    tokens = draw_text(3, 13)
    found = apply(case.model.params, jnp.array(tokens), case.model.config)
    np.testing.assert_allclose(found, peer_logits(case.peer, tokens), atol=2e-5)


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
        np.testing.assert_allclose(found[i, mask[i]], by_row[i], atol=2e-5)
        if "long" not in case.name:
            np.testing.assert_allclose(found[i, mask[i]], together[i, mask[i]], atol=2e-5)


def test_64_greedy_tokens_are_those_of_transformers(case):
    import torch

    texts = [draw_text(n, seed=n).tolist() for n in (12, 5)]
    found = generate_tokens(case.model.params, texts, case.model.config, max_new_tokens=64)
    # Rows that cross a length at different steps: transformers turns all by the longest one's.
    batches = [[text] for text in texts] if "long" in case.name else [texts]
    wanted = []
    for batch in batches:
        width = max(map(len, batch))
        padded = torch.tensor([[0] * (width - len(text)) + text for text in batch])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in batch])
        out = case.peer.generate(
            padded, attention_mask=mask, do_sample=False, max_new_tokens=64, pad_token_id=0,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        wanted += out.sequences[:, width:].tolist()
        best = torch.stack(out.logits).topk(2).values
        assert (best[..., 0] - best[..., 1]).min() > 2e-4  # no tie, so that rounding decides nothing
    assert len({token for text in wanted for token in text}) > 10
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
    np.testing.assert_array_equal(peer_logits(again, tokens), peer_logits(case.peer, tokens))
    told, kept = again.config.to_dict(), case.peer.config.to_dict()
    free = {"dtype", "_name_or_path", "torch_dtype", "transformers_version", "architectures", "max_window_layers"}
    free |= {"n_inner"} | ({"eos_token_id"})
    assert {n: v for n, v in told.items() if n not in free} == {n: v for n, v in kept.items() if n not in free}
    assert read_config(tmp_path)[0] == replace(case.model.config, dtype="float32")


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
