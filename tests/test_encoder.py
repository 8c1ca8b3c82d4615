from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from tiers import few
from tiny import SCHEMES, TINY, draw, draw_tokens
from torch_names import torch_attention, torch_block

from jaxgpt import bert
from jaxgpt.attention import Mask, attention, keys_and_values
from jaxgpt.stack import block

LAYERS = np.load(Path(__file__).parent / "golden" / "layers.npz", allow_pickle=False)
LAYER = replace(TINY, d_model=12, n_heads=3, n_kv_heads=None, head_dim=None, d_ff=17)
KINDS = {
    f"{scheme} {norm}": replace(
        cfg, architecture="encoder", head="none", n_layers=2, norm_position=norm, n_segments=3, embedding_norm=True
    )
    for scheme, cfg in SCHEMES.items()
    for norm in ("pre", "post")
}
SOME = few(sorted(KINDS, key=lambda kind: kind not in ("learned post", "rotary pre")), 2)
PRE, POST = KINDS["learned pre"], KINDS["relative post"]
LENGTHS = np.array([4, 13, 1, 9])
MASK = jnp.array(np.arange(13) < LENGTHS[:, None])
encode = jax.jit(bert.encode, static_argnums=2)


def drawn_inputs(cfg, seed=1):
    """Tokens and their segments, 4 rows of 13."""
    segments = np.sort(np.random.default_rng(seed).integers(0, 3, (4, 13)), axis=1)
    return draw_tokens(cfg, 4, 13, seed), jnp.array(segments)


def layer_weights(family):
    prefix = f"{family}/param/"
    return {name.removeprefix(prefix): LAYERS[name].astype("float32") for name in LAYERS if name.startswith(prefix)}


def check_layer(name, f):
    """f(x, memory): output and gradients as torch's, at real tokens; gradients of the weighted sum in the file."""
    inputs = [jnp.array(LAYERS[x], "float32") for x in ("x", "memory")]

    def total(x, memory):
        y = f(x, memory)
        return (y * LAYERS["cotangent"].astype("float32")).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*inputs)
    real = LAYERS["mask/x"]
    np.testing.assert_allclose(y[real], LAYERS[f"{name}/output"][real], atol=2e-6, rtol=1e-5)
    for kind, gradient in zip(("x", "memory"), gradients, strict=True):
        if f"{name}/grad/{kind}" in LAYERS:
            wanted = LAYERS[f"{name}/grad/{kind}"]
            np.testing.assert_allclose(gradient, wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
        else:
            assert not gradient.any()


def padded(kind, causal=False):
    real = jnp.array(LAYERS[f"mask/{kind}"], int)
    return Mask(causal=causal, query_segments=real, key_segments=real)


def source_of(params, memory):
    return tuple(array.swapaxes(1, 2) for array in keys_and_values(params, memory, LAYER))


@pytest.mark.parametrize("name", ["padded", "causal", "cross"])
def test_attention_is_torch_s(name):
    params = jax.tree.map(jnp.asarray, torch_attention(layer_weights("attention"), LAYER))

    def run(x, memory):
        if name != "cross":
            return attention(params, x, LAYER, padded("x", causal=name == "causal"))[0]
        real = jnp.array(LAYERS["mask/memory"], int)
        mask = Mask(causal=False, query_segments=jnp.ones((1, 7), int), key_segments=real)
        return attention(params, x, LAYER, mask, source=source_of(params, memory))[0]

    check_layer(f"attention/{name}", run)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_block_is_torch_s_layer(side, activation, norm_position):
    cfg = replace(LAYER, norm_position=norm_position, activation=activation)
    params = jax.tree.map(jnp.asarray, torch_block(layer_weights(side), cfg))

    def run(x, memory):
        if side == "encoder":
            return block(params, x, cfg, padded("x")).x
        source, real = source_of(params["cross"], memory), jnp.array(LAYERS["mask/memory"])
        return block(params, x, cfg, padded("x", causal=True), source=source, source_mask=real).x

    check_layer(f"{side}/{norm_position} {activation}", run)


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("window", [None, 4])
def test_states_are_the_formulas_of_each_row_without_its_padding(kind, window):
    cfg = replace(KINDS[kind], window=window)
    params, (tokens, segments) = draw(bert.declare(cfg)), drawn_inputs(cfg)
    found = np.where(MASK[..., None], encode(params, tokens, cfg, mask=MASK, segments=segments), 0)
    wanted = plain.bert_hidden(params, tokens, cfg, MASK, segments)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("change", [{"embedding_scale": True}, {"embedding_norm": False}, {"n_segments": 0}])
def test_embeddings_are_the_formulas(change):
    cfg = replace(PRE, n_layers=1, **change)
    params, (tokens, segments) = draw(bert.declare(cfg)), drawn_inputs(cfg)
    segments = None if cfg.n_segments == 0 else segments
    found = np.where(MASK[..., None], encode(params, tokens, cfg, mask=MASK, segments=segments), 0)
    np.testing.assert_allclose(found, plain.bert_hidden(params, tokens, cfg, MASK, segments), atol=5e-5)


def test_without_segments_all_tokens_are_of_the_first():
    params, (tokens, segments) = draw(bert.declare(PRE)), drawn_inputs(PRE)
    wanted = encode(params, tokens, PRE, mask=MASK, segments=jnp.zeros_like(segments))
    np.testing.assert_array_equal(encode(params, tokens, PRE, mask=MASK), wanted)
    assert jnp.abs(wanted - encode(params, tokens, PRE, mask=MASK, segments=segments)).max() > 1e-2


@pytest.mark.parametrize("kind", SOME)
def test_what_stands_at_padding_changes_no_bit(kind):
    cfg = KINDS[kind]
    params, (tokens, segments), (others, other_segments) = (
        draw(bert.declare(cfg)), drawn_inputs(cfg), drawn_inputs(cfg, seed=5),
    )  # fmt: skip
    first = encode(params, tokens, cfg, mask=MASK, segments=segments)
    tokens, segments = jnp.where(MASK, tokens, others), jnp.where(MASK, segments, other_segments)
    second = encode(params, tokens, cfg, mask=MASK, segments=segments)
    np.testing.assert_array_equal(first[MASK], second[MASK])


@pytest.mark.parametrize("kind", SOME)
def test_a_text_has_the_same_states_alone_and_in_any_batch_with_padding_anywhere(kind):
    cfg = KINDS[kind]
    params, (tokens, segments) = draw(bert.declare(cfg)), drawn_inputs(cfg)
    together = encode(params, tokens, cfg, mask=MASK, segments=segments)
    scale = float(jnp.abs(together).max())
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1), slice(0, length)
        alone = encode(params, tokens[one], cfg, segments=segments[one])
        np.testing.assert_allclose(together[one], alone, atol=1e-6 * scale)
    left = [jnp.stack([jnp.roll(x, -n) for x, n in zip(xs, LENGTHS, strict=True)]) for xs in (MASK, tokens, segments)]
    shifted = encode(params, left[1], cfg, mask=left[0], segments=left[2])
    np.testing.assert_allclose(shifted[left[0]], together[MASK], atol=1e-6 * scale)


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("window", [None, 3])
def test_a_state_has_a_gradient_from_every_real_token_within_the_window_on_both_sides(kind, window):
    cfg = replace(KINDS[kind], n_layers=1, window=window)
    params, tokens = draw(bert.declare(cfg)), jnp.arange(7)[None]  # each id once: its row's gradient is its place's
    real = jnp.arange(7)[None] < 6

    def reach(params, t):
        x = bert.encode(params, tokens, cfg, mask=real)[0, t]
        return (x * jnp.cos(jnp.arange(14))).sum()  # weighted: the plain sum of a norm's output is a constant

    slopes = jax.jit(jax.vmap(lambda t: jax.grad(reach)(params, t)["embedding"]["token"]))(jnp.arange(6))
    near = np.abs(np.arange(6)[:, None] - np.arange(7)) < (window or 7)
    np.testing.assert_array_equal((slopes[:, :7] != 0).any(-1), near & (np.arange(7) < 6))


RUNS = {
    "scan": {"scan_layers": True},
    "dots": {"remat": "dots"},
    "scan full": {"scan_layers": True, "remat": "full"},
}


@pytest.mark.parametrize(("cfg", "seed"), few([(PRE, 7), (POST, None)]), ids=["key", "no key"])
def test_every_way_to_run_the_layers_gives_the_same_values_and_gradients(cfg, seed):
    cfg, key = replace(cfg, dropout=0.3), None if seed is None else jax.random.key(seed)
    params, (tokens, segments) = draw(bert.declare(cfg)), drawn_inputs(cfg)

    def total(params, cfg):
        x = bert.encode(params, tokens, cfg, mask=MASK, segments=segments, key=key)
        x = jnp.where(MASK[..., None], x, 0) * jnp.cos(jnp.arange(14))
        return x.sum(), x

    def agree(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-6 + 4e-6 * float(jnp.abs(wanted).max()))

    run = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=1)
    wanted = run(params, cfg)
    for changes in RUNS.values():
        jax.tree.map(agree, run(params, replace(cfg, **changes)), wanted)


def test_bfloat16_states_are_near_those_of_float32():
    for cfg in (PRE, POST):
        params = jax.tree.map(lambda x: x / 2, draw(bert.declare(cfg)))
        tokens, segments = drawn_inputs(cfg)
        low, high = (
            encode(params, tokens, replace(cfg, dtype=dtype), mask=MASK, segments=segments)[MASK]
            for dtype in ("bfloat16", "float32")
        )
        assert low.dtype == "bfloat16"
        error = jnp.sqrt(jnp.square(low.astype("float32") - high).mean() / jnp.square(high).mean())
        assert 1e-4 < error < 3e-2
