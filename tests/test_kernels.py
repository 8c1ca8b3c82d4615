from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import few
from tiny import TINY, apply, draw, draw_tokens

from jaxgpt import decoding, gpt, kernels
from jaxgpt.attention import Mask, attend
from jaxgpt.sharding import MeshConfig, make_mesh

CAUSAL, SEGMENTS = Mask(causal=True), jnp.ones((1, 128), int)
PADDED = Mask(True, query_positions=SEGMENTS, key_positions=SEGMENTS, query_segments=SEGMENTS, key_segments=SEGMENTS)
CACHED = PADDED.replace(key_segments=SEGMENTS + 0)  # equal, but not the same array


def chosen(wanted, mask=CAUSAL, time=128, head_dim=8, dtype="float32", plain=True):
    query = jax.ShapeDtypeStruct((1, time, 6, head_dim), dtype)
    return kernels.choose(wanted, query, query, mask, plain=plain)


@pytest.mark.parametrize(
    ("platform", "wanted", "changes", "kernel"),
    [
        ("cpu", "auto", {}, "blocks"),
        ("cpu", "xla", {}, "blocks"),
        ("cpu", "auto", {"plain": False}, "xla"),
        ("cpu", "auto", {"mask": Mask(True, 5)}, "xla"),
        ("cpu", "auto", {"mask": Mask(causal=False)}, "xla"),
        ("cpu", "auto", {"mask": PADDED}, "xla"),
        ("cpu", "auto", {"mask": CACHED}, "xla"),
        ("cpu", "splash", {}, "splash"),
        ("gpu", "auto", {"dtype": "bfloat16"}, "cudnn"),
        ("gpu", "auto", {"dtype": "float16", "head_dim": 128, "time": 78}, "cudnn"),
        ("gpu", "auto", {"dtype": "bfloat16", "time": 77}, "blocks"),
        ("gpu", "auto", {"dtype": "bfloat16", "mask": Mask(True, 5)}, "cudnn"),
        ("gpu", "xla", {"dtype": "bfloat16"}, "blocks"),
        ("gpu", "auto", {}, "blocks"),
        ("gpu", "auto", {"dtype": "bfloat16", "head_dim": 12}, "blocks"),
        ("gpu", "auto", {"dtype": "bfloat16", "head_dim": 136}, "blocks"),
        ("gpu", "auto", {"dtype": "bfloat16", "mask": PADDED}, "xla"),
        ("gpu", "auto", {"dtype": "bfloat16", "plain": False}, "xla"),
        ("tpu", "auto", {}, "splash"),
        ("tpu", "auto", {"mask": PADDED, "time": 256}, "splash"),
        ("tpu", "auto", {"mask": Mask(True, 5)}, "splash"),
        ("tpu", "auto", {"mask": PADDED.replace(gaps=True)}, "splash"),
        ("tpu", "auto", {"mask": PADDED.replace(window=5)}, "splash"),
        ("tpu", "auto", {"mask": PADDED.replace(window=5, gaps=True)}, "xla"),
        ("tpu", "xla", {}, "blocks"),
        ("tpu", "auto", {"time": 100}, "blocks"),
        ("tpu", "auto", {"mask": CACHED}, "xla"),
        ("tpu", "auto", {"mask": Mask(causal=False)}, "splash"),
        ("gpu", "auto", {"dtype": "bfloat16", "mask": Mask(causal=False, window=3)}, "xla"),
        ("gpu", "auto", {"dtype": "bfloat16", "mask": Mask(causal=False)}, "cudnn"),
        ("tpu", "auto", {"mask": PADDED.replace(tree=jnp.ones((1, 128, 128), bool))}, "xla"),
    ],
)
def test_auto_takes_the_fused_kernel_where_it_can_compute_this(monkeypatch, platform, wanted, changes, kernel):
    monkeypatch.setattr(kernels, "_platform", lambda: platform)
    assert chosen(wanted, **changes) == kernel


@pytest.mark.parametrize(
    ("wanted", "changes", "reason"),
    [
        ("cudnn", {}, "dtype is float32, not bfloat16 or float16"),
        ("cudnn", {"dtype": "bfloat16", "head_dim": 12}, "head_dim=12 is not a multiple of 8 up to 128"),
        ("cudnn", {"dtype": "bfloat16", "mask": PADDED}, "rows are padded or packed"),
        ("cudnn", {"dtype": "bfloat16", "time": 1}, "the length 1 is odd"),
        ("cudnn", {"plain": False}, "scores are biased or weights dropped"),
        (
            "splash",
            {"mask": Mask(True, query_positions=SEGMENTS, key_positions=SEGMENTS)},
            "the tokens of a row are no sequence",
        ),
        ("splash", {"mask": CACHED}, "queries and keys are not the same tokens"),
        ("splash", {"mask": PADDED.replace(window=5, gaps=True)}, "padding may stand inside the window"),
        ("splash", {"time": 129}, "the length 129 is not a multiple of 128"),
    ],
)
def test_a_kernel_that_is_demanded_and_cannot_says_why(wanted, changes, reason):
    with pytest.raises(ValueError, match=f"model.attention: found '{wanted}', expected 'xla' or 'auto', as {reason}"):
        chosen(wanted, **changes)


def test_a_mesh_that_cuts_sequences_takes_the_plain_formula():
    with jax.set_mesh(make_mesh(MeshConfig(sequence=2))):
        assert chosen("auto") == "xla"
        with pytest.raises(ValueError, match="the mesh cuts sequences"):
            chosen("splash")


def test_the_platform_is_the_mesh_s_or_the_default():
    assert kernels._platform() == jax.default_backend()
    with jax.set_mesh(make_mesh(MeshConfig(data=2))):
        assert kernels._platform() == "cpu"


def qkv(batch, time, heads, kv_heads, head_dim=8):
    rng = np.random.default_rng(0)
    return [jnp.array(rng.normal(size=(batch, time, h, head_dim)), "float32") for h in (heads, kv_heads, kv_heads)]


RUNS = jnp.repeat(jnp.array([1, 2, 3]), jnp.array([50, 77, 129]))[None].repeat(2, 0).at[1, 230:].set(0)
SEGMENTED = Mask(causal=True, query_segments=RUNS, key_segments=RUNS)


@pytest.mark.parametrize(
    ("mask", "time", "heads", "kv_heads"),
    few(
        [
            (CAUSAL, 128, 3, 3),
            (CAUSAL, 256, 4, 2),
            (Mask(True, 5), 256, 2, 1),
            (SEGMENTED, 256, 4, 2),
            (SEGMENTED.replace(window=40), 256, 2, 1),
            (SEGMENTED.replace(causal=False), 256, 4, 2),
            (Mask(False, 5), 256, 2, 1),
        ],
        4,
    ),
    ids=["MHA", "GQA", "window", "segments", "window and segments", "both ways", "both ways in a window"],
)
def test_splash_is_attend(mask, time, heads, kv_heads):
    inputs = qkv(2, time, heads, kv_heads)
    real = jnp.ones((2, time), bool) if mask.query_segments is None else mask.query_segments > 0
    cotangent = jnp.cos(jnp.arange(8)) * real[:, :, None, None]  # a padded query's result means nothing

    def run(f):
        def total(inputs):
            out = f(*inputs) * cotangent
            return out.sum(), out

        return jax.jit(jax.value_and_grad(total, has_aux=True))(inputs)

    (_, found), gradients = run(lambda *x: kernels.splash(*x, mask, interpret=True))
    (_, wanted), wanted_gradients = run(lambda *x: attend(*x, mask.dense(time, time)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), gradients, wanted_gradients)


@pytest.mark.parametrize(
    ("mesh", "kv_heads"), [(MeshConfig(data=2, tensor=2), 2), (MeshConfig(tensor=4), 2), (MeshConfig(tensor=4), 1)]
)
def test_splash_on_a_mesh_pairs_each_query_head_with_its_own_kv_head(mesh, kv_heads):
    inputs = qkv(2, 128, 4, kv_heads)
    with jax.set_mesh(make_mesh(mesh)):
        found = jax.jit(lambda *x: kernels.splash(*x, CAUSAL, interpret=True))(*inputs)
    np.testing.assert_allclose(found, attend(*inputs, CAUSAL.dense(128, 128)), atol=1e-5)


@pytest.fixture
def on_splash(monkeypatch):
    """(params, tokens, config, masks) -> logits by the kernel, interpreted, and how many layers called it."""
    interpreted, calls = kernels.splash, []
    monkeypatch.setattr(kernels, "splash", lambda *x: calls.append(x) or interpreted(*x, interpret=True))

    def run(params, tokens, cfg, **masks):
        again = jax.jit(lambda *x, **masks: gpt.apply(*x, **masks), static_argnums=2)  # a function never traced before
        return again(params, tokens, replace(cfg, attention="splash"), **masks), len(calls)

    return run


LONG = replace(TINY, context_length=128, n_layers=1, head_dim=8)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_a_padded_model_on_splash_is_the_plain_one(on_splash, side):
    """The whole path a TPU takes: `choose`, the mask's segments, the kernel (interpreted)."""
    params, tokens = draw(gpt.declare(LONG)), draw_tokens(LONG, 2, 128)
    real = np.ones((2, 128), bool)
    real[1, {"left": slice(0, 37), "right": slice(91, 128), "middle": slice(20, 60, 3)}[side]] = False
    found, calls = on_splash(params, tokens, LONG, mask=jnp.array(real))
    assert calls == 1
    np.testing.assert_allclose(found[real], apply(params, tokens, LONG, mask=jnp.array(real))[real], atol=1e-4)


def test_a_windowed_model_takes_packed_texts_on_splash_and_refuses_padding(on_splash):
    cfg = replace(LONG, window=5)
    params, tokens = draw(gpt.declare(cfg)), draw_tokens(cfg, 2, 128)
    runs = jnp.repeat(jnp.array([1, 2, 1]), jnp.array([50, 3, 75]))[None].repeat(2, 0).at[1, 100:].set(0)
    found, calls = on_splash(params, tokens, cfg, segments=runs)
    assert calls == 1
    np.testing.assert_allclose(found[runs > 0], apply(params, tokens, cfg, segments=runs)[runs > 0], atol=1e-4)
    with pytest.raises(ValueError, match="padding may stand inside the window"):
        on_splash(params, tokens, cfg, mask=runs > 0)


@pytest.mark.parametrize(("time", "slots", "fused"), [(128, 128, True), (128, 256, True), (127, 256, False)])
def test_prefill_takes_the_fused_kernel(monkeypatch, time, slots, fused):
    monkeypatch.setattr(kernels, "_platform", lambda: "tpu")
    cfg = replace(LONG, context_length=256)
    tokens, lengths = jnp.zeros((2, time), int), jnp.array([5, 70])
    prefill = decoding.prefill.__wrapped__  # not what another test has traced
    text = str(jax.make_jaxpr(lambda params: prefill(params, tokens, lengths, cfg, slots))(draw(gpt.declare(cfg))))
    assert ("pallas_call" in text) is fused


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 1), (True, 3), (True, 7)])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_what_cudnn_is_asked_for_is_attend(monkeypatch, causal, window, kv_heads):
    """The call itself, answered by XLA: a wrong width of the window or order of axes shows on any machine."""
    answer, asked = jax.nn.dot_product_attention, []

    def by_xla(*inputs, implementation, **options):
        asked.append(implementation)
        return answer(*inputs, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    inputs, mask = qkv(2, 11, 4, kv_heads), Mask(causal, window)
    np.testing.assert_allclose(kernels.cudnn(*inputs, mask), attend(*inputs, mask.dense(11, 11)), atol=1e-5)
    assert asked == ["cudnn"]
