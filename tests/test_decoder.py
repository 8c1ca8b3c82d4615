from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SCHEMES, apply, draw, draw_tokens

from jaxgpt import gpt
from jaxgpt.attention import KVCache
from jaxgpt.decoder import decoder

CONFIGS = {name: replace(cfg, n_layers=1) for name, cfg in SCHEMES.items()}
CONFIGS["window"] = replace(CONFIGS["rotary"], window=4, n_layers=2)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    """(config, parameters, two rows of 19 tokens, their logits without a cache)."""
    cfg = CONFIGS[request.param]
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 19)
    return cfg, params, tokens, apply(params, tokens, cfg)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=2e-5)


def in_pieces(params, tokens, cfg, sizes, cache, masks=None):
    """Logits of consecutive pieces of the tokens, each run on the cache of those before it."""
    out, start = [], 0
    for size in sizes:
        mask = None if masks is None else masks[:, start : start + size]
        logits, cache = apply(params, tokens[:, start : start + size], cfg, cache=cache, mask=mask)
        out.append(logits)
        start += size
    assert start == tokens.shape[1]
    assert cache.used == start
    return jnp.concatenate(out, 1)


@pytest.mark.parametrize("sizes", [[1] * 19, [6, 1, 6, 6]], ids=["one by one", "uneven pieces"])
def test_cached_decode_is_the_full_forward(model, sizes):
    cfg, params, tokens, full = model
    close(in_pieces(params, tokens, cfg, sizes, KVCache.empty(cfg, 2, slots=21)), full)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_ragged_rows_decode_together_as_each_alone(model, side):
    """A padded prefill of 6 and 3 tokens, then one token at a time: real tokens have the logits of no padding."""
    cfg, params, tokens, full = model
    real = np.ones((2, 13), bool)
    real[1, {"left": [0, 1, 2], "right": [3, 4, 5], "middle": [1, 2, 4]}[side]] = False
    padded = jnp.zeros((2, 13), int).at[0].set(tokens[0, :13]).at[1, real[1]].set(tokens[1, :10])
    found = in_pieces(params, padded, cfg, [6] + [1] * 7, KVCache.empty(cfg, 2, slots=21), jnp.array(real))
    close(found[0], full[0, :13])
    close(found[1, real[1]], full[1, :10])


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_is_absence(model, side):
    cfg, params, tokens, full = model
    real = np.ones((2, 19), bool)
    real[1, {"left": range(7), "right": range(12, 19), "middle": [0, 3, 4, 9, 10, 11, 18]}[side]] = False
    padded = tokens.at[1, real[1]].set(tokens[1, :12])
    found = apply(params, padded, cfg, mask=jnp.array(real))
    close(found[0], full[0])
    close(found[1, real[1]], full[1, :12])
    assert jnp.isfinite(found).all()
    other = apply(params, jnp.where(real, padded, (padded + 5) % 23), cfg, mask=jnp.array(real))
    np.testing.assert_array_equal(other[real], found[real])


def test_a_later_token_changes_no_bit_of_an_earlier_logit(model):
    cfg, params, tokens, full = model
    for t in (1, 9, 18):
        changed = apply(params, tokens.at[:, t].add(1) % 23, cfg)
        np.testing.assert_array_equal(changed[:, :t], full[:, :t])
        assert jnp.abs(changed[:, t] - full[:, t]).max() > 1e-3


def test_packed_texts_do_not_see_each_other(model):
    cfg, params, tokens, full = model
    lengths = (5, 11, 3)
    segments = jnp.repeat(jnp.array([3, 1, 2]), jnp.array(lengths))[None].repeat(2, 0).at[1, 16:].set(0)
    texts = [tokens[:, :n] for n in lengths]
    packed = apply(params, jnp.concatenate(texts, 1), cfg, segments=segments)
    close(packed[:, :5], full[:, :5])
    close(packed[:, 5:16], full[:, :11])
    close(packed[0, 16:], full[0, :3])


def test_a_segment_number_used_again_is_another_text(model):
    cfg, params, tokens, full = model
    segments = jnp.array([[1, 1, 2, 2, 1, 1]] * 2)
    packed = apply(params, tokens[:, [0, 1, 0, 1, 0, 1]], cfg, segments=segments)
    for start in (0, 2, 4):
        close(packed[:, start : start + 2], full[:, :2])
    other = apply(params, tokens[:, [0, 1, 0, 1, 2, 1]], cfg, segments=segments)
    assert np.flatnonzero((other != packed).any((0, 2))).tolist() == [4, 5]


@pytest.mark.parametrize("scheme", CONFIGS)
def test_one_row_and_one_token_are_enough(scheme):
    cfg = CONFIGS[scheme]
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 1, 1)
    full = apply(params, tokens, cfg)
    assert full.shape == (1, 1, 23)
    logits, cache = apply(params, tokens, cfg, cache=KVCache.empty(cfg, 1, slots=1))
    close(logits, full)
    np.testing.assert_array_equal(cache.positions, [[0]])


def test_a_cache_keeps_dropout_and_takes_layers_apart():
    cfg = replace(CONFIGS["learned"], dropout=0.3, n_layers=2)
    params, tokens, cache = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 6), KVCache.empty(cfg, 2, slots=6)
    no_key = apply(params, tokens, cfg)
    layers = tuple(jax.tree.map(lambda x, i=i: x[i], params["layers"]) for i in range(2))
    close(apply(params | {"layers": layers}, tokens, cfg, cache=cache)[0], no_key)
    dropped = apply(params, tokens, cfg, key=jax.random.key(0))
    assert jnp.abs(dropped - no_key).max() > 1e-2
    close(apply(params, tokens, cfg, cache=cache, key=jax.random.key(0))[0], dropped)


def test_the_window_is_a_reach_in_tokens():
    """Through two layers of window 4, a query hears 3 + 3 tokens back and no further."""
    cfg = CONFIGS["window"]
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 19)
    full, changed = (apply(params, t, cfg) for t in (tokens, tokens.at[:, 5].add(1) % 23))
    heard = np.flatnonzero((jnp.abs(full - changed) > 1e-7).any((0, 2)))
    assert heard.tolist() == [5, 6, 7, 8, 9, 10, 11]


def test_segments_come_alone():
    cfg = CONFIGS["learned"]
    params, tokens, ones = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 3), jnp.ones((2, 3), int)
    for other in ({"mask": ones > 0}, {"cache": KVCache.empty(cfg, 2)}):
        with pytest.raises(ValueError, match="segments: found a mask or a cache too, expected segments alone"):
            decoder(params, tokens, cfg, segments=ones, **other)
