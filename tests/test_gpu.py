"""On a GPU: cuDNN's kernel is the formula, and the models, their training and generation give the CPU's numbers.

JAX_PLATFORMS=cuda,cpu python -m pytest -n 0 tests/test_gpu.py
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, TINY, draw, draw_tokens

from jaxgpt import bert, config, gpt, kernels, seq2seq
from jaxgpt import params as P
from jaxgpt.attention import Mask, attend
from jaxgpt.generation import generate_tokens
from jaxgpt.model import prepare
from jaxgpt.sharding import make_mesh
from jaxgpt.training import objectives
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.state import init_state
from jaxgpt.training.step import compile_train
from jaxgpt.translation import translate_tokens

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "gpu", reason="needs a GPU: JAX_PLATFORMS=cuda,cpu python -m pytest -n 0 tests/test_gpu.py"
)
CPU = jax.local_devices(backend="cpu")[0]
exact = jax.default_matmul_precision("highest")  # a GPU multiplies float32 in 10 bits of mantissa otherwise


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("mask", "time", "heads", "kv_heads", "width"),
    [
        (Mask(causal=True), 128, 3, 3, 64),
        (Mask(causal=True), 78, 4, 2, 32),
        (Mask(causal=True), 2, 4, 1, 128),
        (Mask(causal=True, window=5), 200, 2, 1, 64),
        (Mask(causal=False), 134, 6, 3, 72),
    ],
    ids=["MHA", "GQA at 78", "two tokens", "window", "both ways at 134"],
)
def test_cudnn_is_the_formula_in_values_and_gradients(mask, time, heads, kv_heads, width, dtype):
    rng = np.random.default_rng(0)
    inputs = [jnp.array(rng.normal(size=(2, time, h, width)), dtype) for h in (heads, kv_heads, kv_heads)]
    cotangent = jnp.array(rng.normal(size=(2, time, heads, width)), "float32")

    def results(attention, inputs):
        out, back = jax.vjp(lambda *x: attention(*x).astype("float32"), *inputs)
        return [np.asarray(x, "float32") for x in (out, *back(cotangent))]

    assert kernels.choose("auto", *inputs[:2], mask, plain=True) == "cudnn"
    found = results(lambda *x: kernels.cudnn(*x, mask), inputs)
    with exact:
        wide = [x.astype("float32") for x in inputs]
        wanted = results(lambda *x: attend(*x, mask.dense(time, time)), wide)
    eps = float(jnp.finfo(dtype).eps)
    for a, b in zip(found, wanted, strict=True):
        assert np.linalg.norm(a - b) < 2 * eps * np.linalg.norm(b) + 1e-6


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_decoder_has_the_cpu_s_logits_and_gradients(scheme):
    cfg = SCHEMES[scheme]
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 3, cfg.context_length)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    with exact:
        both = jax.jit(jax.value_and_grad(gpt.loss, has_aux=True), static_argnums=2)
        here = both(params, batch, cfg)
        there = both(*jax.device_put((params, batch), CPU), cfg)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(there))  # some gradients are 0, but for rounding
    for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * largest)


def test_bert_and_the_translator_have_the_cpu_s_numbers():
    small = {"vocab_size": 50, "context_length": 16, "d_model": 32, "n_layers": 2, "n_heads": 4, "d_ff": 64}
    reads = replace(config.bert("tiny"), **small)
    translates = replace(config.transformer("base"), **small)
    tokens = jnp.array([[2, 17, 4, 21, 3, 0], [2, 8, 3, 0, 0, 0]])
    mask, target = tokens > 0, jnp.array([[1, 9, 5], [1, 30, 7]])
    encoder, pair = draw(bert.declare(reads)), draw(seq2seq.declare(translates))

    def results(device):
        with jax.default_device(device):
            first, second, source, real, given = jax.device_put((encoder, pair, tokens, mask, target), device)
            states = bert.apply(first, source, reads, mask=real)
            logits = seq2seq.apply(second, source, given, translates, source_mask=real)
            texts = translate_tokens(second, [[17, 4, 21, 1], [8, 1]], translates, start=1, end=1, beam=4)
            return np.asarray(states)[mask], np.asarray(logits), texts

    with exact:
        here, there = results(jax.devices()[0]), results(CPU)
    np.testing.assert_allclose(here[0], there[0], atol=1e-4)
    np.testing.assert_allclose(here[1], there[1], atol=1e-4)
    assert here[2] == there[2]


def test_greedy_text_is_the_cpu_s():
    prompts = [[1, 2, 3], [5, 6, 7, 8, 9, 10, 11], [22]]
    for cfg in (TINY, SCHEMES["rotary"]):
        params = draw(gpt.declare(cfg))
        with exact:
            here = generate_tokens(prepare(params, cfg.dtype), prompts, cfg, max_new_tokens=31)
            with jax.default_device(CPU):
                there = generate_tokens(
                    prepare(jax.device_put(params, CPU), cfg.dtype), prompts, cfg, max_new_tokens=31
                )
        assert here == there


def test_bfloat16_training_by_cudnn_follows_the_plain_formula():
    """Ten updates each: the losses agree to bfloat16's rounding, and fall."""
    losses = {}
    for attention in ("cudnn", "xla"):
        cfg = replace(TINY, vocab_size=64, context_length=96, d_model=64, n_heads=4, head_dim=16, dtype="bfloat16")
        cfg = replace(cfg, attention=attention)
        objective, mesh = objectives.find("causal_lm"), make_mesh(devices=jax.devices()[:1])
        declarations = objective.declare(cfg)
        optimizer = make_optimizer(OptimizerConfig(1e-2, warmup_steps=2), 100, P.decay_mask(declarations))
        state = init_state(jax.random.key(0), declarations, optimizer, mesh)
        tokens = jnp.broadcast_to(draw_tokens(cfg, 8, 97), (10, 8, 97))
        block = {"inputs": tokens[..., :-1], "targets": tokens[..., 1:]}
        losses[attention] = compile_train(cfg, objective, optimizer, mesh)(state, block, 10)[1]["loss"]
    np.testing.assert_allclose(losses["cudnn"], losses["xla"], rtol=2e-2)
    assert losses["cudnn"][-1] < losses["cudnn"][0] - 0.2
