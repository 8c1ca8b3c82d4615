"""Encoders and encoder-decoders as formulas in float64 NumPy, a row at a time and without its padding.

Reads the parameters by their names in jaxgpt; relative buckets are jaxgpt's own (tests/test_embeddings.py tests them).
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from jaxgpt.config import ModelConfig
from jaxgpt.embeddings import relative_bucket


def norm(params, x, cfg):
    x = x - x.mean(-1, keepdims=True) if cfg.norm == "layer" else x
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + cfg.norm_epsilon) * params["scale"]
    return x + params.get("bias", 0)


def activation(x, cfg):
    match cfg.activation:
        case "gelu":
            return 0.5 * x * (1 + erf(x / np.sqrt(2)))
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        case "relu":
            return np.maximum(x, 0)
        case "silu":
            return x / (1 + np.exp(-x))


def mlp(params, x, cfg):
    up = x @ params["up"]["kernel"] + params["up"].get("bias", 0)
    if cfg.gated:
        hidden = activation(x @ params["gate"]["kernel"] + params["gate"].get("bias", 0), cfg) * up
    else:
        hidden = activation(up, cfg)
    return hidden @ params["down"]["kernel"] + params["down"].get("bias", 0)


def rotated(x, cfg):
    """Each pair half a head apart as a complex number, turned by its place."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * (cfg.rope_theta or 1e4) ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], -1)


def attention(params, x, memory, cfg, bias=0, seen=True, rotary=False):
    """x (T, D) reads memory (S, D) where `seen`, (T, S), is True."""

    def project(name, x):
        return np.einsum("td,dhk->thk", x, params[name]["kernel"]) + params[name].get("bias", 0)

    query, key, value = project("query", x), project("key", memory), project("value", memory)
    if rotary:
        query, key = rotated(query, cfg), rotated(key, cfg)
    shared = cfg.n_heads // cfg.kv_heads
    key, value = key.repeat(shared, 1), value.repeat(shared, 1)
    scores = np.einsum("thk,shk->hts", query, key) / np.sqrt(cfg.head_width) + bias
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    heads = np.einsum("hts,shk->thk", weights / weights.sum(-1, keepdims=True), value)
    return np.einsum("thk,hkd->td", heads, params["output"]["kernel"]) + params["output"].get("bias", 0)


def embedded(params, tokens, cfg, segments=None):
    x = params["token"][tokens] * (np.sqrt(cfg.d_model) if cfg.embedding_scale else 1)
    if cfg.position == "learned":
        x = x + params["position"][: len(tokens)]
    if cfg.position == "sinusoidal":
        angles = np.arange(len(tokens))[:, None] / 10000 ** (np.arange(0, cfg.d_model, 2) / cfg.d_model)
        x = x + np.stack([np.sin(angles), np.cos(angles)], -1).reshape(x.shape)
    if "segment" in params:
        x = x + params["segment"][np.zeros_like(tokens) if segments is None else segments]
    return norm(params["norm"], x, cfg) if "norm" in params else x


def stack(params, x, cfg: ModelConfig, memory=None):
    """All the layers of one side: a decoder's where there is a memory."""
    causal, bias = memory is not None, 0
    distance = np.arange(len(x)) - np.arange(len(x))[:, None]
    seen = (np.abs(distance) < (cfg.window or np.inf)) & ((distance <= 0) if causal else True)
    if cfg.position == "relative":
        buckets = cfg.relative_buckets or 32, cfg.relative_max_distance or 128
        bias = np.moveaxis(
            params["relative"][np.asarray(relative_bucket(jnp.array(distance), *buckets, not causal))], -1, 0
        )
    steps = {"attention": lambda p, x: attention(p, x, x, cfg, bias, seen, rotary=cfg.position == "rotary")}
    if causal:
        steps["cross"] = lambda p, x: attention(p, x, memory, cfg)
    steps["mlp"] = lambda p, x: mlp(p, x, cfg)
    for i in range(len(params["layers"]["mlp_norm"]["scale"])):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        for name, step in steps.items():
            if cfg.norm_position == "pre":
                x = x + step(layer[name], norm(layer[f"{name}_norm"], x, cfg))
            else:
                x = norm(layer[f"{name}_norm"], x + step(layer[name], x), cfg)
    return norm(params["final_norm"], x, cfg) if cfg.norm_position == "pre" else x


def as_float64(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def bert_hidden(params, tokens, cfg: ModelConfig, mask, segments=None):
    """Hidden states of each row's real tokens; zeros at its padding."""
    params, out = as_float64(params), np.zeros((*tokens.shape, cfg.d_model))
    for row, real in enumerate(np.asarray(mask)):
        of = None if segments is None else np.asarray(segments)[row, real]
        x = embedded(params["embedding"], np.asarray(tokens)[row, real], cfg, of)
        out[row, real] = stack(params, x, cfg)
    return out


def seq2seq_logits(params, source, target, cfg: ModelConfig, source_mask, target_mask):
    """Logits at each row's real target tokens; zeros at its padding."""
    params, out = as_float64(params), np.zeros((*target.shape, cfg.vocab_size))
    head = params["embedding"]["token"].T if cfg.tie_embeddings else params["head"]["kernel"]
    for row, (seen, real) in enumerate(zip(np.asarray(source_mask), np.asarray(target_mask), strict=True)):
        x = embedded(params["embedding"], np.asarray(source)[row, seen], cfg)
        memory = stack(params["encoder"], x, cfg)
        y = embedded(params["embedding"], np.asarray(target)[row, real], cfg)
        out[row, real] = stack(params["decoder"], y, cfg, memory) @ head
    return out
