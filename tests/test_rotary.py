import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import few
from tiny import TINY, apply, draw, draw_tokens

from jaxgpt import gpt
from jaxgpt.attention import KVCache
from jaxgpt.config import RopeScaling
from jaxgpt.generation import generate_tokens
from jaxgpt.rotary import at_length, frequencies, magnitude_of, rotate

POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 0, 700, 256, 257]])  # any order, and past bfloat16's integers
CONFIG = replace(TINY, position="rotary", head_dim=16)
LLAMA3 = RopeScaling("llama3", 8.0, 64, low_frequency_factor=1.0, high_frequency_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64, beta_fast=32.0, beta_slow=1.0, truncate=True, magnitude=0.1 * math.log(4) + 1)
LONG = RopeScaling(
    "longrope", original_length=7, short=tuple(1 + i / 10 for i in range(8)), long=tuple(2.0 + i for i in range(8)),
    magnitude=1.2,
)  # fmt: skip
KINDS = {"linear": RopeScaling("linear", 3.0), "llama3": LLAMA3, "yarn": YARN, "longrope": LONG}


@pytest.mark.parametrize(("theta", "base"), [(None, 10000.0), (50.0, 50.0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation_turns_the_pairs_half_a_head_apart(theta, base, dtype):
    x = np.asarray(jnp.array(np.random.default_rng(0).normal(size=(2, 5, 3, 6))).astype(dtype), np.float64)
    found = rotate(jnp.array(x, dtype), jnp.array(POSITIONS), replace(CONFIG, head_dim=6, rope_theta=theta))
    pairs = x[..., :3] + 1j * x[..., 3:]
    turned = pairs * np.exp(1j * POSITIONS[:, :, None, None] * base ** (-np.arange(3) / 3))
    wanted = np.concatenate([turned.real, turned.imag], -1)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype("float32"), wanted, atol=2e-4 if dtype == "float32" else 2e-2)


def test_rotated_scores_depend_on_the_distance_alone():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    cfg = replace(CONFIG, head_dim=8, rope_theta=50.0)

    def score(query_position, key_position):
        turned = [
            rotate(jnp.array(x), jnp.array([[p]]), cfg) for x, p in ((query, query_position), (key, key_position))
        ]
        return float(jnp.vdot(*turned))

    assert score(9, 4) == pytest.approx(score(5, 0), abs=1e-5)
    assert score(105, 100) == pytest.approx(score(5, 0), abs=1e-4)
    assert abs(score(9, 5) - score(9, 4)) > 1e-2
    assert abs(score(4, 9) - score(9, 4)) > 1e-2


def test_dimensions_beyond_rope_width_stay():
    x = jnp.array(np.random.default_rng(0).normal(size=(2, 5, 3, 16)), jnp.float32)
    found = rotate(x, jnp.array(POSITIONS), replace(CONFIG, rope_width=6))
    np.testing.assert_array_equal(found[..., 6:], x[..., 6:])
    alone = rotate(x[..., :6], jnp.array(POSITIONS), replace(CONFIG, head_dim=6))
    np.testing.assert_array_equal(found[..., :6], alone)


def stretched(kind: str, wavelength: float) -> float:
    """What a wavelength becomes, a number at a time, as the papers word it."""
    if kind == "linear":
        return 3 * wavelength
    if kind == "llama3":
        if wavelength < 64 / 4:
            return wavelength
        if wavelength > 64 / 1:
            return 8 * wavelength
        smooth = (64 / wavelength - 1) / (4 - 1)
        return 1 / ((1 - smooth) / (8 * wavelength) + smooth / wavelength)
    pair = 8 * math.log(wavelength / (2 * math.pi)) / math.log(10000)  # yarn: the ramp is over pairs, rounded outwards
    first = math.floor(8 * math.log(64 / (32 * 2 * math.pi)) / math.log(10000))
    last = math.ceil(8 * math.log(64 / (2 * math.pi)) / math.log(10000))
    share = min(max((pair - max(first, 0)) / (last - max(first, 0)), 0), 1)
    return 1 / (share / (4 * wavelength) + (1 - share) / wavelength)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_frequencies_are_stretched_as_the_papers_say(kind):
    found = frequencies(replace(CONFIG, rope_scaling=KINDS[kind]))[0]
    wavelengths = [2 * math.pi * 10000 ** (i / 8) for i in range(8)]
    wanted = [2 * math.pi / stretched(kind, wavelength) for wavelength in wavelengths]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_longrope_takes_the_factors_of_each_row_by_its_own_length():
    found = frequencies(replace(CONFIG, rope_scaling=LONG), jnp.array([7, 8]))
    plain = 10000.0 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(found, [plain / np.array(LONG.short), plain / np.array(LONG.long)], rtol=1e-6)


PEERS = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
}  # fmt: skip


@pytest.mark.parametrize("width", [16, 6])
@pytest.mark.parametrize("kind", PEERS)
def test_frequencies_are_those_of_transformers(kind, width):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    peer = transformers.LlamaConfig(
        hidden_size=32, num_attention_heads=2, head_dim=16, max_position_embeddings=256,
        rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": width / 16, **PEERS[kind]},
    )  # fmt: skip
    wanted, magnitude = ROPE_INIT_FUNCTIONS[kind](peer, "cpu")
    cfg = replace(CONFIG, rope_theta=500.0, rope_width=width, rope_scaling=KINDS[kind])
    np.testing.assert_allclose(frequencies(cfg)[0], wanted.numpy(), rtol=1e-6)
    assert magnitude_of(cfg) == pytest.approx(magnitude)


@pytest.mark.parametrize("kind", few(KINDS, 2))
def test_cached_decoding_is_the_full_forward(kind):
    cfg = replace(TINY, position="rotary", head_dim=16, rope_scaling=KINDS[kind], bias=False)
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 11)
    cache, full, whole = KVCache.empty(cfg, 2, 11), apply(params, tokens, cfg), at_length(cfg, 11)
    assert (whole != cfg) == (kind == "longrope")  # its first tokens are turned by what the last one's place says
    for start, end in ((0, 3), (3, 8), (8, 9), (9, 11)):
        logits, cache = apply(params, tokens[:, start:end], whole, cache=cache)
        np.testing.assert_allclose(logits, full[:, start:end], atol=2e-5)


@pytest.mark.parametrize("prompts", few([[6, 5], [3, 7, 2, 9]]))
def test_generation_past_the_switch_of_longrope_encodes_the_text_anew(prompts):
    cfg = replace(TINY, position="rotary", head_dim=16, rope_scaling=LONG, bias=False)
    params = draw(gpt.declare(cfg))
    texts = [draw_tokens(cfg, 1, n, seed=n)[0].tolist() for n in prompts]
    found = generate_tokens(params, texts, cfg, max_new_tokens=8)
    for text, new in zip(texts, found, strict=True):
        for token in new:
            assert token == int(apply(params, jnp.array([text]), cfg)[0, -1].argmax())
            text = [*text, token]


def test_a_longer_neighbour_changes_no_row_of_longrope():
    cfg = replace(TINY, position="rotary", head_dim=16, rope_scaling=LONG)
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 11)
    mask = jnp.arange(11) < jnp.array([[6], [11]])
    both = apply(params, tokens, cfg, mask=mask)
    np.testing.assert_allclose(both[0, :6], apply(params, tokens[:1, :6], cfg)[0], atol=2e-5)
    np.testing.assert_allclose(both[1], apply(params, tokens[1:], cfg)[0], atol=2e-5)
