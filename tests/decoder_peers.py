"""Models of transformers with every parameter drawn, at awkward sizes, and what they compute."""

import zlib

import numpy as np
import pytest

from jaxgpt.tokenizers.char import CharTokenizer

VOCAB = 61
ATOL = 5e-5  # what float32 rounds, there and here, of logits up to 15
TOKENIZER = CharTokenizer(chr(ord("A") + i) for i in range(VOCAB))
IDS = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}  # outside the vocabulary by default
GPT2 = {
    "vocab_size": VOCAB, "n_positions": 96, "n_embd": 20, "n_layer": 2, "n_head": 5, "n_inner": 33,
    "layer_norm_epsilon": 1e-4, "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2, **IDS,
}  # fmt: skip
LLAMA = {
    "vocab_size": VOCAB, "max_position_embeddings": 96, "hidden_size": 18, "intermediate_size": 23,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "rms_norm_eps": 1e-4,
    **IDS,
}  # fmt: skip
PHI3 = {name: value for name, value in LLAMA.items() if name != "head_dim"} | {"hidden_size": 36}


def rope(kind="default", theta=500.0, **values):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **values}}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 20}
YARN = {"factor": 4.0, "original_max_position_embeddings": 24, "beta_fast": 4.0}
LONG = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 7.0]}


def make(kind: str, values: dict, task: str = "CausalLM"):
    """transformers' model of these fields, every parameter drawn: zero biases and unit gains hide mistakes."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    architecture = "GPT2LMHeadModel" if (kind, task) == ("GPT2", "CausalLM") else f"{kind}For{task}"
    return fill(getattr(transformers, architecture)(getattr(transformers, f"{kind}Config")(**values)))


def fill(model):
    import torch

    for path, parameter in model.named_parameters():
        rng = np.random.default_rng(zlib.crc32(f"{path}0".encode()))
        gain = parameter.ndim == 1 and path.endswith("weight")
        parameter.data = torch.tensor(rng.normal(1.0 if gain else 0.0, 0.3, parameter.shape), dtype=torch.float32)
    return model.eval()


def tensors_of(model):
    """By the names that a file has."""
    tied = model.config.tie_word_embeddings
    return [(name, x) for name, x in model.named_parameters() if not (tied and name == "lm_head.weight")]


def save(model, folder):
    model.save_pretrained(folder)
    TOKENIZER.save(folder)


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
